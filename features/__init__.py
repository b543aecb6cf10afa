"""Pure numpy features with a declared look-back."""
