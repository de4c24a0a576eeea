"""The example chapter, a polynomial fitted to noisy points: ``reprobook new <slug>`` copies it under that name."""
