"""Models, one `modeling_<family>.py` per family, and the bricks they share."""
