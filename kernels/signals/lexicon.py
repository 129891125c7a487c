"""Words by what they do in an attempt to turn a model against its instructions.

General English, with the commonest words of such attempts in six other languages; chosen from what
the attacks are made of (Perez and Ribeiro 2022, arXiv:2211.09527; Shen et al. 2023,
arXiv:2308.03825): dropping the rules, another role, no refusals, secrets, harm. No word alone
means anything; :mod:`kernels.signals.suspicion` weighs what comes together in one sentence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.segments import Codes, hash_pairs, hash_words

WORDS: dict[str, str] = {
    "drop": """ignore ignoring ignored ignores disregard disregarding disregards forget forgetting
        override overrides overriding overridden bypass bypasses bypassing overlook neglect
        circumvent discard dismiss nullify cancel suspend abandon disable disabled disables
        deactivate supersede supersedes violate violates violating
        ignoriere ignorieren vergiss vergessen ignorez oubliez oublie ignora olvida olviden
        ignorar esqueça desconsidere dimentica ignorare игнорируй забудь""",
    "rules": """instruction instructions rule rules guideline guidelines policy policies prompt
        prompts restriction restrictions constraint constraints directive directives limitation
        limitations filter filters safeguard safeguards guardrail guardrails protocol protocols
        programming programmed command commands order orders boundaries censorship censored
        moderation compliance regulations norms training anweisung anweisungen regeln règles
        consignes instrucciones reglas instruções regras istruzioni regole инструкции правила""",
    "prior": """previous prior above preceding earlier former foregoing original initial existing
        all any every bisherigen vorherigen précédentes anteriores precedenti предыдущие""",
    "role": """pretend pretends pretending act acts acting roleplay roleplaying role simulate
        simulates simulating simulation simulator impersonate persona character characters
        imagine behave embody emulate portray portrays imitate imitates imitating mimic mimics
        personify personas roleplays impersonates impersonating hypothetical hypothetically
        fictional fictitious mode""",
    "model": """ai ais chatgpt gpt gpt3 gpt4 assistant chatbot chatbots bot bots llm llms openai
        claude gemini llama copilot anthropic dan jailbreak jailbreaks jailbroken""",
    "free": """unrestricted uncensored unfiltered unlimited limitless amoral unbiased unethical
        unmoderated unaligned uninhibited unhinged freely freed free anything everything whatever
        regardless always evil liberated""",
    "refuse": """refuse refuses refusal refusing refused apologize apologise apologies sorry
        disclaimer disclaimers warning warnings warn decline declines reject rejects cannot
        unable consent moralize inappropriate denies deny""",
    "taboo": """illegal illegally immoral immorality unethical ethics ethical ethicality morals
        morality moral legality harmful offensive nsfw explicit dangerous violent violence hateful
        controversial taboo sexual sexually obscene obscenities profanities insult insults slurs
        cursing swears vulgar profanity profane curse swear swearing
        racist sexist rude malicious inappropriate adult gore""",
    "you": "you your yourself yours u ur du dein deine tu vous votre tú usted você ты вы",
    "must": """must always never should shall will only now immediately can cannot allowed
        permitted required obey comply follow follows ensure remember strictly exactly""",
    "tell": """answer answers answering respond responds responding response responses reply
        replies output outputs print repeat reveal reveals disclose leak expose show tell write
        generate generates provide provides say begin start prefix question questions request
        requests format message messages""",
    "secret": """system secret secrets hidden confidential password passwords credentials token
        tokens key keys api exfiltrate verbatim internal admin administrator root sudo
        privileged""",
    "harm": """bomb bombs explosive explosives weapon weapons hack hacking hacks hacker malware
        virus ransomware phishing keylogger exploit exploits poison poisons poisoning drug drugs
        meth methamphetamine cocaine heroin fentanyl ricin anthrax nerve suicide murder kill
        killing steal stealing stolen fraud counterfeit launder laundering smuggle smuggling
        terrorist terrorism trafficking torture rape child porn pornography stalk stalking
        blackmail extort extortion forge fake bully bullying harass abuse abusing assault nazi
        genocide bioweapon arson burglary shoplift scam piracy ddos botnet crack detonate""",
    "how": "how make making build building create creating get guide steps instructions ways way",
}
"""Kind → its words."""

PAIRS: dict[str, str] = {
    "turn": """from now,you are,you will,are now,act as,acting as,pretend to,pretend you,stay in,in
        character,do anything,anything now,do not,don t,can t,role of,play the,want you,new
        instructions,your new,going to,you must,you can,your name,you have,no longer,will be""",
    "open": """no restrictions,no limits,no limit,no rules,no limitations,no filters,no filter,
        no censorship,no ethics,no ethical,no morals,no moral,not care,have opinions,own opinions,
        any limits,any limitations,any filters,any censorship,any warnings,no longer,never refuse,
        never refuses,not refuse,without any,any restrictions,any rules,any ethical,developer mode,
        dan mode,god mode,jailbreak mode,system prompt,your instructions,your rules,your guidelines,
        your programming,your training,content policy,safety guidelines,previous instructions,
        prior instructions,above instructions,as an,free from,break free,stay in,in character,
        break character,everything above,text above,the above,instructions above,no matter""",
    "machine": """language model,large language,the model,ai model,artificial intelligence,chat
        bot,open ai,an ai,the assistant,an assistant,the user,the users""",
}
"""Kind → its pairs of neighbouring words."""

_SLOT_BITS = 16
_SALTS = 1000


@dataclass(frozen=True, slots=True)
class Lookup:
    """From hashes to sets of kinds, as bits; no two hashes share a slot."""

    codes: Codes
    kinds: NDArray[np.uint32]
    slots: NDArray[np.int16]
    salt: np.uint64

    def find(self, codes: Codes) -> NDArray[np.uint32]:
        """The kinds of each hash, 0 for one that is not listed."""
        at = self.slots[_slots(codes, self.salt)]
        found = np.flatnonzero(at >= 0)
        kinds = np.zeros(len(codes), np.uint32)
        same = self.codes[at[found]] == codes[found]
        kinds[found[same]] = self.kinds[at[found[same]]]
        return kinds


def lookup(listed: dict[str, Codes]) -> Lookup:
    """The look-up of kinds' hashes; the kinds' bits are in their order.

    Raises:
        ValueError: There are too many words for the slots.
    """
    bits: dict[int, int] = {}
    for place, hashes in enumerate(listed.values()):
        for code in hashes.tolist():
            bits[code] = bits.get(code, 0) | 1 << place
    codes = np.array(list(bits), np.uint64)
    for salt in range(1, 2 * _SALTS, 2):
        at = _slots(codes, np.uint64(salt))
        if len(np.unique(at)) == len(at):
            slots = np.full(1 << _SLOT_BITS, -1, np.int16)
            slots[at] = np.arange(len(at))
            return Lookup(codes, np.array(list(bits.values()), np.uint32), slots, np.uint64(salt))
    raise ValueError(f"{len(codes)} words do not fit {1 << _SLOT_BITS} slots; list fewer")


def _slots(codes: Codes, salt: np.uint64) -> NDArray[np.intp]:
    return ((codes * salt) >> np.uint64(64 - _SLOT_BITS)).astype(np.intp)


def word_lookup() -> Lookup:
    """The look-up of :data:`WORDS`."""
    return lookup({kind: hash_words(words.split()) for kind, words in WORDS.items()})


def pair_lookup() -> Lookup:
    """The look-up of :data:`PAIRS`."""
    return lookup({kind: hash_pairs(pairs.split(",")) for kind, pairs in PAIRS.items()})
