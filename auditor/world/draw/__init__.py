"""Drawing: an anti-aliased canvas, objects, people and styles."""
