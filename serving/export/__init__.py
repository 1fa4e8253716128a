"""What trainers write and everything else reads: SavedModels, their signatures, and the files beside them."""
