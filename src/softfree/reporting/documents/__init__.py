"""What a study has to report: a model card, a methods paragraph, TRIPOD+AI and CLAIM, filled with what a run knows.

``facts`` states what the run knows in sentences, ``card`` and ``checklists`` arrange them, and ``document`` writes
each document as Markdown, HTML and DOCX.
"""
