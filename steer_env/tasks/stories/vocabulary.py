"""The words of stories for small children: a list that tells words from letters that only look like some.

Stems, words that no rule makes, names: written for this, they cover 97 % of the words of 800 TinyStories.
"""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


CLASSES = {
    "animal": _split(
        "animal dog puppy cat kitty kitten bird fish mouse rabbit bunny bear lion tiger elephant monkey giraffe "
        "zebra frog duck duckling hen chicken chick rooster cow pig horse pony sheep lamb goat fox wolf deer "
        "squirrel turtle snake lizard bee bug ant spider butterfly worm snail crab shark whale dolphin octopus "
        "owl parrot eagle penguin donkey camel dinosaur hippo panda koala kangaroo hamster hedgehog raccoon skunk "
        "beaver otter swan goose crow pigeon ladybug caterpillar"
    ),
    "food": _split(
        "food cake cream cookie cracker candy chocolate apple banana grape cherry berry "
        "strawberry blueberry peach pear "
        "lemon melon watermelon plum mango fruit vegetable carrot potato tomato corn pea bean onion pepper "
        "mushroom pumpkin salad soup stew pasta noodle pizza sandwich bread toast butter cheese egg meat ham "
        "bacon sausage burger rice honey jam jelly sugar pie muffin cupcake pancake waffle donut cereal oatmeal "
        "milk juice tea lemonade yogurt pudding nut popcorn lollipop treat snack"
    ),
    "vehicle": _split(
        "vehicle car truck bus train boat ship plane airplane jet bike bicycle tricycle motorcycle scooter "
        "tractor van taxi cab wagon cart sled rocket helicopter jeep ambulance submarine sailboat canoe carriage "
        "trolley spaceship"
    ),
    "weather": _split(
        "weather sun sunshine sunlight rain raindrop rainbow snow snowflake wind breeze cloud storm thunder "
        "lightning fog mist hail sunny rainy snowy windy cloudy stormy foggy"
    ),
    "toy": _split("toy ball doll kite puzzle block balloon robot teddy marble yoyo drum puppet lego"),
    "clothes": _split("clothes hat cap coat jacket shirt dress skirt shoe boot sock glove mitten scarf sweater pants"),
}
"""What a story may be steered to: nouns, of the weather adjectives too."""

_FIXED = _split(
    "a able about above across afraid after again against aha ahead all almost alone along already also always am "
    "an and another any anymore anyone anything anywhere apart are aren't around as asleep at ate away back be "
    "became because become been before began begun behind being below bent beside best better between bit bitten "
    "blew blown both bought broke broken brought built but by bye came can can't cannot caught children chose "
    "chosen could couldn't course cut dead did didn't do does doesn't doing don't done down drank drawn drew "
    "driven drove drunk dug during dying each eaten eight either else enough even eventually ever every everybody "
    "everyone everything everywhere fallen fed feet fell felt few finally first five flew flown for forever "
    "forgave forgot forgotten forward found four from froze frozen full gave geese given gone got gotten grew "
    "grown ha had hadn't has have haven't having he he'd he's heard held hello her here hers herself hey hi hid "
    "hidden him himself his hit home how hundred hung hurt i i'd i'll i'm i've if in inside instead into is isn't "
    "it it's its itself just kept knew knives known laid last lay leaves led left less let let's lit lost lot "
    "lots lying made many may maybe me meant men met mice might mine more most mr mrs much must my myself near "
    "nearby neither never next nine no nobody none not nothing now nowhere o'clock of off often oh ok okay on once one "
    "ones only onto oops or other others ouch our ours out outside over own paid people please put quite ran read "
    "really ridden rode rose said same sang sank sat saw second seen sent seven shall she she'd she's shelves "
    "shone shook shot should shouldn't shut since six slept slid so sold some somebody someone something "
    "sometimes somewhere soon spent spoke spoken still stole stolen stood stuck such sung swam swept swum taken "
    "taught teeth ten than thanks that that's the their theirs them themselves then there there's these they "
    "they'd they'll they're third this those though thought three threw through thrown time times to today "
    "together told tomorrow too took tore torn toward towards tv two under understood unfortunately until up upon "
    "us very was wasn't we we'll we're well went were weren't what what's when whenever where where's which while "
    "who who's whose why will with without woke woken wolves woman women won won't wore worn worse worst would "
    "wouldn't wow written wrote yay yes yesterday yet you you'd you'll you're your yours yourself"
)
_STEMS = _split(
    "accept accident add admire adventure afternoon agree air airport amaze ancient angel angry answer apologize "
    "appear arm arrive arrow ask attic aunt baby backyard bad bag bake bald band bark barn basket bat bath "
    "bathroom bathtub battle beach bead beak beautiful bed bedroom beetle begin believe bell belong belt bench "
    "bend big birthday bite bitter black blanket blink blow blue board body bone book bore boring borrow bossy "
    "bottle bottom bounce bouncy bow bowl box boy branch brave break breakfast breath bridge bright brilliant "
    "bring broom brother brown brush bubble bucket build bump burn bush busy button buy buzz cabin cage call calm "
    "camera candle card care careful careless case castle catch cause cave celebrate chain chair chalk chance "
    "change chase cheek cheer cheerful chest chew child chirp choose circle circus city clap class clay clean "
    "clever climb clock close closet cloth clumsy coin cold collect color colorful colour colourful come comfort "
    "comfortable confuse continue cook cool copy corner costume cottage couch cough count country cousin cover "
    "cozy crack crash crawl crayon create creative creature cricket cross crowd crown crunch crunchy cry cub cube "
    "cuddle cup curious curtain cushion cute dad daddy dance danger dangerous dark daughter day dead dear decide "
    "deck decorate deep delicate delicious delight describe desk determine different difficult dig dinner dirt "
    "dirty disappear disappoint discover dish dive dizzy dock doctor door doorbell double drag dragon draw drawer "
    "dream drink drip drive driver drop drown dry dust eager ear early earn easy eat edge elderly embarrass empty "
    "end enemy engine enjoy enormous enter envious escape evening excite excitement exclaim exercise expect "
    "expensive explain explode explore extra eye fabric face fact fail fair fairy fake fall family famous fan "
    "fancy far farm farmer fast father favorite favourite fear feather feed feel fence field fierce fight figure "
    "fill find fine finger finish fire fireman fit fix flag flash flashlight flat float floor flow flower fluffy "
    "flute flutter fly fold follow foot football forest forget forgive fork fountain fragile free fresh fridge "
    "friend friendly friendship frighten front frown frustrate fun funny fur furry game garage garden gate gather "
    "generous gentle get ghost giant gift giggle girl give glad glass glitter glow glue go goal gold golden good "
    "goodbye grab grandfather grandma grandmother grandpa grass grateful gray great green greet grey grin ground "
    "group grow grumpy guard guess guest guide guilty guitar gum gun gym hair half hall hammer hand handle hang "
    "happen happy harbor hard harm harmless hatch hate hay head heal healthy hear heart heavy help helpful hero "
    "hide high hike hill hive hold hole holiday honest hook hop hope horn hose hospital hot hour house hug huge "
    "hum hungry hunt hurry hurt hut ice icecream idea ignore imagine impatient important impress independent "
    "innocent insect inspect intelligent interest invent invite island itch jar jealous jewel job jog join joke "
    "jolly journey joy joyful judge juggle juicy jump jungle keep key kick kid kind kindness king kiss kitchen "
    "knee knife knock knot know ladder lady lake lamp land language large late laugh laundry lazy lead leaf lean "
    "leap learn leash leave leg lesson letter library lick lid lie life lift light like limp line lip list listen "
    "little live lively load lock log lonely long look loose lose loud love lovely low luck lucky lunch machine "
    "mad magazine magic magical magnet mail mailbox make mama man manage map march mark market marry mask master "
    "mat match matter meadow mean measure medal medicine meet melody melt member meow mess message messy metal "
    "middle mighty mild mill mind minute mirror miss mistake mix model modest mom moment mommy money monster "
    "month moo mood moon moral morning mother mountain mouth move movie mud muddy mug mum mummy munch museum "
    "mushy music mysterious mystery nail name nap napkin napping nature naughty neat neck need needle neighbor "
    "neighborhood nervous nest net new newspaper nibble nice night nod noise noisy normal north nose note notice "
    "number nurse obedient obey object observe ocean offer office old open orange order organize ornament owner "
    "pack package page pain paint painting pair palace pale pan papa paper parade parent park part party pass "
    "past path patient pattern paw pay peace peaceful peanut pebble peek peel pen pencil perfect permit person "
    "pet phone photo piano pick picnic picture piece pier pile pillow pilot pin pink pipe pirate place plan "
    "planet plant plastic plate play player playful playground pleasant please plenty pocket point poke pole "
    "police policeman polite pond pool poor pop popular port possible pot pouch pour powder power powerful "
    "practice praise pray prepare present press pretend pretty prevent prince princess print prize problem "
    "promise protect proud puddle pull punish pup purple purse push put quack queen question quick quiet quit "
    "race radio raise rake rare ray reach read ready real realize receive recognize record red refuse regret "
    "relax reliable relieve remember remind remove repair repeat reply respect rest restaurant return reward "
    "rhyme ribbon rich ride right ring rip ripe rise river road roar rock rocky roll roof room root rope rough "
    "round row rub rubber rude rug ruin rule run rush sack sad safe safety sail sailor salt salty sand sandcastle "
    "save say scale scare scary scatter school scold scratch scream screen sea seal search seat secret see seed "
    "seek seem selfish sell send separate serious serve set sew shade shadow shake shape share sharp shelf shell "
    "shelter shine shiny shock shop shopkeeper shore short shoulder shout shovel show shower shy sick side sigh "
    "sight sign silent silly silver simple sing sink sip sister sit size skate skill skin skip sky sleep sleepy "
    "slide slip slow small smart smell smile smoke smooth snap sneak snuggle soap soccer soft soil soldier solve "
    "song sore sorry sort sound sour space spare sparkle sparkly speak special speed spell spend spill spin "
    "spirit splash spoil sponge spoon sport spot spray spread spring sprinkle square squeak squeeze squirt stable "
    "stack stage stair stamp stand star start station stay steal steam steep step stick sticker sticky stir stone "
    "stop store story stove strange stranger straw stream street strength stretch strike string stripe stroll "
    "strong stubborn study stuff stumble style success suddenly suggest suit summer sunset supper support sure "
    "surprise swallow sway sweep sweet swim swing swirl switch table tail take talent talk tall tame tap tape "
    "task taste tasty teach teacher team tear tease tell tent thank thankful thick thief thin thing think thirsty "
    "thoughtful thread throat throw thumb ticket tickle tidy tie tight tiny tip tire toe tomb tongue tool tooth "
    "toothbrush top touch tough towel tower town trade trail trap trash travel tray treasure tree triangle trick "
    "trip trouble true trunk trust truth try tube tug tumble tummy tunnel turn tweet twig twin twist ugly "
    "umbrella uncle understand unhappy uniform unique universe unknown unlock unusual upset upstairs use useful "
    "vacation valley valuable vanish vase vest view village vine violin visit visitor voice volcano wag wait wake "
    "walk wall wander want war warm warn wash waste watch water wave way weak wear web wedding week weigh weight "
    "weird welcome west wet wheel whisper whistle white whole wide wife wiggle wild win window wing wink winter "
    "wipe wire wise wish witch wizard wonder wonderful wood wooden wool word work world worry worthless wrap "
    "write wrong yard yarn yawn year yell yellow young yummy zip zoo zoom"
)
_NAMES = _split(
    "adam alex alice amy andy anna annie bella ben benny bill billy bob bobby buddy clara daisy dan ella emily "
    "emma emmy eva frank fred grace ivy jack jake james jane jen jenny jill jim jimmy joe joey john july june "
    "kate katie leo lila lily lisa lola lucy luke mark mary max maya mia mike milly molly nick nina paul pete "
    "peter polly rose ruby sally sam sammy sara sarah sophie spot sue susie tim timmy tom tommy zoe"
)
_IRREGULAR = {"mouse": "mice", "goose": "geese", "wolf": "wolves"}
_HISSING = ("s", "x", "z", "ch", "sh", "o")
_VOWELS = "aeiou"


def is_known(word: str) -> bool:
    """Whether the word or what it is a form of is in the list, in whatever case."""
    return word.lower().replace("\u2019", "'") in _KNOWN


def nouns(kind: str) -> dict[str, str]:
    """The words of a class in both numbers, each with its singular.

    Args:
        kind: key of `CLASSES`.
    """
    return _NOUNS[kind]


def _numbers(noun: str) -> set[str]:
    if noun in _IRREGULAR:
        return {noun, _IRREGULAR[noun]}
    if noun[-1] == "y" and noun[-2] not in _VOWELS:
        return {noun, noun[:-1] + "ies"}
    return {noun, noun + "s", noun + "es"} if noun.endswith(_HISSING) else {noun, noun + "s"}


def _forms(stem: str) -> set[str]:
    """A stem as noun, verb and adjective, all that its spelling allows: which of these it is, the list does not say."""
    found = _numbers(stem) | {f"{form}'s" for form in _numbers(stem)} | {f"{stem}ly"}
    if stem[-1] == "e":
        return found | {stem + "d", stem + "r", stem + "st"} | {stem[:-1] + ending for ending in ("ing", "y", "ier")}
    if stem[-1] == "y" and stem[-2] not in _VOWELS:
        return found | {stem + "ing"} | {f"{stem[:-1]}i{ending}" for ending in ("ed", "er", "est", "ly", "ness")}
    doubled = stem + stem[-1] if stem[-1] not in _VOWELS else stem
    return found | {base + ending for base in (stem, doubled) for ending in ("ed", "ing", "er", "est", "y")}


_KNOWN = frozenset(
    {*_FIXED, *_NAMES, *(f"{name}'s" for name in _NAMES)}
    | {form for words in (_STEMS, *CLASSES.values()) for word in words for form in _forms(word)}
)
_NOUNS = {kind: {form: noun for noun in words for form in _numbers(noun)} for kind, words in CLASSES.items()}
