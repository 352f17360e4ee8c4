"""Images of evaluated samples, as `vila_ops.samples` makes them: never the stored file itself."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from vila_core.errors import Damaged, NotFound
from vila_core.images import BadImage
from vila_ops.web.loading import samples_of

KEEP = "private, max-age=31536000, immutable"
"""The path holds the artifact's digest: what it leads to never changes."""

router = APIRouter(include_in_schema=False)


@router.get("/samples/{artifact}/{path:path}")
def sample_image(request: Request, artifact: str, path: str) -> Response:
    """Answer with an image of an evaluation set."""
    try:
        picture = samples_of(request).image(artifact, path)
    except (NotFound, ValueError) as error:
        if isinstance(error, BadImage):
            raise HTTPException(422, f"{path}: can't be shown: {error}") from None
        raise HTTPException(404, str(error)) from None
    except Damaged as error:
        raise HTTPException(422, str(error)) from None
    return Response(picture.data, media_type=picture.media_type, headers={"Cache-Control": KEEP})
