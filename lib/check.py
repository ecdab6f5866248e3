"""Checkers for the exercises: each takes your function and tries to break it."""
