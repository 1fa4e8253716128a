"""A page on which people try the models: `tfx-vim demo`."""
