"""`finetune`: training a network to live with polynomial activations. Start reading at finetune.py."""

from .finetune import Finetune, finetune

__all__ = ["Finetune", "finetune"]
