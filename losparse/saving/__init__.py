"""Save and load compressed models as the ecosystem does, and refuse what does not fit."""
