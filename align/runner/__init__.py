"""A run, stage by stage: from a recipe to a run folder."""

from loguru import logger

# Silent until a record asks for a log.
logger.disable("align")
