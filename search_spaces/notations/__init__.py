"""The notations of cells: what tools print and write, read without executing anything, and written.

A reader turns a value (`recipes.literals`) into the edges that it says, of which a space then says whether it
holds them.
"""
