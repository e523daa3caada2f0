"""Plots as SVG geometry; the templates draw them."""
