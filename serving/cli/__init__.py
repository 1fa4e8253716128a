"""The commands of `tfx-vim` that query models."""
