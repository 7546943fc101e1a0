"""Kinds of features: what values each can have, and how draws are made that have no others."""
