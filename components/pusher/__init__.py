"""Pusher: copies a blessed model to where a server finds it."""
