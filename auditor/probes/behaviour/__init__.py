"""How does the tuned model behave beside its base?"""
