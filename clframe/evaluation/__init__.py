"""What is measured while a stream is learnt, and what is computed from it afterwards."""
