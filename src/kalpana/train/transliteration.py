"""Vocabulary of ``text/transliterate.py``: ``kalpana tokenizer hindi`` writes it.

One line for each Hindi word of the captions of the world, of the lexicon and of COMMON, with
its number of occurrences in these captions, 1 at least.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

from kalpana.media import write
from kalpana.text.normalize import clean
from kalpana.text.transliterate import QUOTED
from kalpana.train.tokenizer import corpus, video_corpus

# Frequent words that prompts have and captions of the world have not.
COMMON = """
अच्छा अच्छी अच्छे अपना अपनी अपने आकाश आदमी आप आसमान इस उनका उस उसका उसकी उसके औरत
कहाँ कुछ कैसा कोई क्या खुश गाँव चमकता चाहिए चित्र छत जंगल जल झील टहल ठंडा डाल तस्वीर
तितली तेज़ था थी थे दिखाइए दिखाओ दिन दुनिया दृश्य दोपहर धूप नदी नया नहीं नाचता नाव
पंछी पक्षी पत्ते पहने पानी पुराना पेड़ प्यारा प्यारी फल फूल बच्चा बच्चे बच्ची बनाइए
बनाओ बनाना बहुत बारिश बादल भारत भी मंदिर महल माँ मुझे में मेरा मेरी मेरे मैं यह ये
राजा राम रानी लड़का लड़की लोग वन वह वे शहर शाम शेर सड़क सब साफ़ सुंदर सुबह सूरज सोता
हँसता हम हमारा हवा हाथी हुआ हुई हुए होता होली
"""
WORD = re.compile(r"[\u0900-\u0963\u0971-\u097f]+")  # without digits and danda


def count(captions: int, videos: int, seed: int) -> Counter[str]:
    """Hindi words and their numbers in captions of images and of videos of the training split."""
    words: Counter[str] = Counter()
    for text in corpus(captions, seed, "everything"):
        words.update(WORD.findall(QUOTED.sub(" ", clean(text))))
    words.update(COMMON.split())
    for text in video_corpus(videos, seed):
        words.update(WORD.findall(clean(text)))
    return words


def save_vocabulary(path: Path, captions: int, videos: int, seed: int) -> int:
    """Write the vocabulary to ``path``; returns its number of words."""
    words = count(captions, videos, seed)
    lines = "\n".join(f"{word} {number}" for word, number in sorted(words.items()))
    write(path, gzip.compress(lines.encode("utf-8"), mtime=0))
    return len(words)
