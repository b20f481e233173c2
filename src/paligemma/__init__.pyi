"""The public names for type checkers; `__init__.py` imports them lazily."""

from paligemma.api import AnswerStream as AnswerStream
from paligemma.api import EncodedImage as EncodedImage
from paligemma.api import Images as Images
from paligemma.api import PaliGemma as PaliGemma
from paligemma.api import Query as Query
from paligemma.api import Ranked as Ranked
from paligemma.api import Tiles as Tiles
from paligemma.api import load as load
from paligemma.config import VARIANTS as VARIANTS
from paligemma.config import Config as Config
from paligemma.config import Variant as Variant
from paligemma.config import variant as variant
from paligemma.engine import Engine as Engine
from paligemma.engine import Sampling as Sampling
from paligemma.errors import PaliGemmaError as PaliGemmaError
from paligemma.images import open_image as open_image
from paligemma.images import read_frames as read_frames
from paligemma.processor import Processor as Processor
from paligemma.results import Answer as Answer
from paligemma.results import Box as Box
from paligemma.results import Detections as Detections
from paligemma.results import Mask as Mask
from paligemma.results import Notice as Notice
from paligemma.tokenizer import Tokenizer as Tokenizer
from paligemma.train import train as train
from paligemma.train.config import TrainConfig as TrainConfig
from paligemma.train.judging.benchmark import evaluate as evaluate

__version__: str
__all__: list[str]
