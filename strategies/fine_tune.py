"""Fine-tuning: train on what comes and protect nothing; the lower bound of every comparison."""

from clframe.api import Strategy


class FineTune(Strategy):
    """Cross-entropy over all outputs on the present experience; it has no options."""
