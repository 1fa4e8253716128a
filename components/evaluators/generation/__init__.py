"""How close drawn images come to real ones."""
