"""What repairs share: the file, the trigger, what layers see, and the certificate."""
