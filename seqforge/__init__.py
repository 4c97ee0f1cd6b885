"""seqforge: adversarial training of discrete sequence generators, with the controls that show whether it helped."""

__version__ = "0.1.0"
