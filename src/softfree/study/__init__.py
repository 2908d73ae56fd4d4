"""A whole study from a table: a plan, cross-validated trainings, their ensemble, and one report.

``auto`` runs it, ``inspection`` and ``plan`` decide, ``members`` trains, ``pooling`` joins the predictions for
held-out samples.
"""
