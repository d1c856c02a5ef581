"""Delivery: a finished image comes to disk whole, checked, under a name a person can read."""

from __future__ import annotations
