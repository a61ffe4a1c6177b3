"""Is there a second, undeclared mode, and what wakes it?"""
