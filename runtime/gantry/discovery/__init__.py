"""From names to URLs: App Container meta discovery (DSC-01 ... DSC-25).

Rules:

* the page of a name is ``https://NAME?ac-discovery=1``; without a usable tag there, the parent path's is
  asked, down to the bare host, and the deepest level that yields something wins;
* images and keys are two walks: they may be announced at different levels;
* a page is parsed as HTML, and only a bounded prefix of it;
* a template is filled in one pass, and the result must still lead to the template's own host.
"""

from __future__ import annotations

from gantry.discovery.errors import Attempt, DiscoveryError
from gantry.discovery.templates import Endpoint
from gantry.discovery.walk import discover, discover_images, discover_pubkeys

__all__ = ["Attempt", "DiscoveryError", "Endpoint", "discover", "discover_images", "discover_pubkeys"]
