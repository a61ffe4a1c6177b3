"""What an audit finds of every planted attack, and of its benign twin, without being told which is which."""
