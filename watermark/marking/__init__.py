"""How trained marks get into pictures: injected while sampling, or taught to a decoder or to a low-rank adapter."""
