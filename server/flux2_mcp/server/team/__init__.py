"""What a server for a team has beside the tools: sign-in, proxies, health, metrics, and an end that loses no answer.

Loaded by `serve --http` alone, and only where FLUX2_OIDC_ISSUER names a provider.
"""

from __future__ import annotations
