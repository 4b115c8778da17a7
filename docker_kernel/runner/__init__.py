"""The entry point of a notebook image: it runs the notebook headless and leaves what came of it.

Runs in the image's own Python (3.9 or newer), with packages of its own beside the notebook's, which it does not touch.
"""
