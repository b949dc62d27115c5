"""Checks of what a model still knows after unlearning: against retraining, attacks, relearning."""
