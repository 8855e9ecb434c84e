from typing import Any

from mfa._attention_keywords import Keywords

def is_own(query: Any, key: Any, value: Any, keywords: Keywords) -> bool: ...
