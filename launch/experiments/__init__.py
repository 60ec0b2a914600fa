"""An experiment of its own beside the ledger of `launch.reproduce`; its ``--help`` says what it computes.

objectives   every training objective at equal settings, in one process, with records that continue
"""
