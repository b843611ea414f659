"""Query words, things that pictures show, by which the recall of an index is measured."""

from __future__ import annotations

ENGLISH = """
apple airplane baby ball bear beach bed bicycle bird boat book bottle bread bridge building bus
cake camera candle car castle cat chair child church city clock cloud cow cup
dog door dress elephant fire fish flag flower food forest frog girl glass guitar
hand hat horse house island king lamp leaf lion man moon mountain mouse night
ocean owl party phone river road ship snow
"""
HINDI = """
सेब हवाईजहाज़ बच्चा गेंद भालू समुद्र बिस्तर साइकिल चिड़िया नाव किताब बोतल रोटी पुल इमारत बस
केक कैमरा मोमबत्ती गाड़ी किला बिल्ली कुर्सी लड़का मंदिर शहर घड़ी बादल गाय प्याला
कुत्ता दरवाज़ा कपड़ा हाथी आग मछली झंडा फूल खाना जंगल मेंढक लड़की चश्मा गिटार
हाथ टोपी घोड़ा घर द्वीप राजा दीपक पत्ता शेर आदमी चाँद पहाड़ चूहा रात
सागर उल्लू त्योहार फ़ोन नदी सड़क जहाज़ बर्फ़
"""
WORDS = (*ENGLISH.split(), *HINDI.split())
