"""What the labels say about the raters, the policies and the labelling itself: formulas, and the dashboard's figures.

Formulas take arrays and need numpy alone; :mod:`.judgements` reads a store, :mod:`.figures` puts everything together.
"""
