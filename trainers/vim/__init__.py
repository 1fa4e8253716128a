"""Stage 2: the image model VIM."""
