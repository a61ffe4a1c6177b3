"""Every fine-tuning method on the same subjects: what is learnt, what it costs, what else it changes."""
