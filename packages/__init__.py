"""What writes the packages for agent hosts. No part of what users get: they get what it wrote, `manifest.json` and `install/`."""
