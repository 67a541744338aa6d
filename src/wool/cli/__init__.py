"""What is done from the shell: start workers, and look at them."""
