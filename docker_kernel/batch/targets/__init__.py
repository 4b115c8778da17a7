"""Where jobs run: one module a kind of target, all behind `base.Target`."""
