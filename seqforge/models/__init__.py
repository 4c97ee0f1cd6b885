"""Generators (the protocol, LSTM) and discriminators."""
