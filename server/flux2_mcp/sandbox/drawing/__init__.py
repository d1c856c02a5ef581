"""The pictures of the sandbox: `draw` is the face, no other module knows the rest."""
