"""The vocabulary of continual learning as clframe speaks it; depends on torch alone."""
