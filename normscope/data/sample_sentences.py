"""Built-in sentences, English and Chinese, short to long, for runs without texts."""

# ruff: noqa: RUF001 (Chinese punctuation is not a mistyped comma)

from typing import TYPE_CHECKING, Any

from normscope.data.corpus import NOTED_SHARE
from normscope.data.tokenization import unknown_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENGLISH = (
    "It rained again.",
    "Who left this here?",
    "Mind the step, please.",
    "The kettle is already boiling.",
    "We missed the last train home.",
    "Cats sleep through most of the day.",
    "Call me when you reach the airport.",
    "Her handwriting is harder to read than mine.",
    "A small leak can sink a very large ship.",
    "The museum stays open until nine on Thursday evenings.",
    "Nobody expected the youngest player to win the chess tournament.",
    "He salted the soup twice and then blamed the cook.",
    "Our landlord promised new windows before the winter, but nothing has happened yet.",
    "Copper conducts electricity well, which is why so many wires are made of it.",
    "The committee will publish its decision on 14 March, three weeks later than planned.",
    "Add two cups of flour, a pinch of salt, and just enough water to hold it together.",
    "My grandmother kept every letter she ever received in a blue tin under the stairs.",
    "Interest rates rose by a quarter of a point, and the currency barely moved in response.",
    "If the light turns red while the pump is running, switch it off and wait five minutes.",
    "Bees tell one another where to find food by dancing, and the angle of the dance gives the direction.",
    "The function returns early when the list is empty, so the division below can never see a zero.",
    "After the storm the whole village came out to clear the road, and somebody brought coffee for everyone.",
    "She had learned the sonata as a child, forgotten it completely, and now found that her fingers still "
    "knew it.",
    "The tenant shall give notice in writing no fewer than thirty days before the date on which the lease is "
    "to end.",
    "Glaciers move so slowly that a person standing on one feels nothing, yet over centuries they carve "
    "valleys out of solid rock.",
    "I told him the shop would be closed on Monday, but he drove there anyway and sat in the car park until "
    "I phoned.",
    "In the second half the visitors defended with ten players behind the ball, and even so they conceded "
    "twice in the final six minutes.",
    "The drug reduced the number of attacks by about a third, although patients who took it slept badly and "
    "several of them left the trial early.",
    "When the harbour froze for the first time in forty years, children walked out to the anchored boats and "
    "knocked on their hulls to hear the sound.",
    "Most of the software we rely on every day was written by people who never met, who disagreed about "
    "nearly everything, and who fixed one another's mistakes anyway.",
    "Before you paint the fence, scrape off the loose flakes, sand the rough patches, wipe away the dust "
    "with a damp cloth, and let the wood dry for at least one sunny afternoon.",
    "The old map showed a river running straight through the middle of town, and it took us most of the "
    "morning to discover that the river was still there, flowing quietly in a tunnel below the old market.",
    "Although the two telescopes stand on opposite sides of the planet, their recordings can be combined "
    "afterwards as if they were parts of a single dish, provided that both clocks agree to within a tiny "
    "fraction of a second.",
    "He was not a patient teacher, and he would say so himself, but he remembered what every one of his "
    "pupils had found difficult the week before, and he never began a lesson without first asking whether it "
    "had become any easier since then.",
    "The bakery on the corner opens at five, long before the rest of the street is awake, and by the time "
    "the first buses come past, the loaves are stacked in the window, the floor has been swept, the coffee "
    "is hot, and the owner, who started at two, is thinking about his bed.",
    "A language changes fastest where its speakers meet strangers, because every trader, sailor, and "
    "traveller carries a few words across the border, and some of those words, once they have been bent into "
    "a shape that local mouths find comfortable, settle down and are soon taken for natives by the "
    "grandchildren of the people who first laughed at them.",
    "Unfortunately, your parcel was returned to our warehouse because the courier could not find the "
    "address; please reply with the full street name, the number of the building, and a telephone number on "
    "which you can be reached during the day, and we will send it again at no extra cost to you, normally "
    "within two working days.",
    "Turn left at the bridge.",
    "Water expands when it freezes.",
    "No, that was not my question.",
    "The defendant denied all of the charges.",
    "Three of the five samples were contaminated.",
    "Honestly, I would rather walk than take that bus again.",
    "Prime numbers thin out as they grow, but they never stop.",
    "Please keep your seat belt fastened until the aircraft has come to a complete stop.",
    "There was a time when every household in this valley owned at least one good axe.",
    "The second violin entered a bar too soon, and only the conductor seemed to notice.",
    "Vaccines train the immune system to recognise an intruder before it has ever met one, which is a "
    "remarkable trick.",
)

_CHINESE = (
    "我爱中国。",
    "今天天气真好。",
    "快走吧。",
    "他还没有回来。",
    "你吃过晚饭了吗？",
    "图书馆星期一不开门。",
    "妹妹把最后一块蛋糕吃了。",
    "这条路太窄，卡车开不进去。",
    "会议改到下周三上午十点举行。",
    "山上的雪要到四月底才会慢慢融化。",
    "他一边听音乐，一边修理那辆旧自行车。",
    "如果明天不下雨，我们就带孩子们去河边放风筝。",
    "这家饭馆的面条很有名，每天中午门口都排着长长的队。",
    "医生建议他少喝咖啡，每天晚上十一点以前上床睡觉。",
    "神经网络的层数越多，训练时数值的大小就越需要小心控制。",
    "老师没有批评他，只是把那道题又从头到尾慢慢地讲了一遍。",
    "昨天夜里突然停电，整栋楼的人都拿着手电筒站在楼道里聊天。",
    "这座石桥已经有六百多年的历史，至今每天仍有许多村民从上面走过。",
    "由于海上起了大雾，原定早上七点出发的渡船一直等到中午才离开码头。",
    "科学家在湖底的泥土里找到了古老的花粉，由此推算出几千年前这里的气候。",
    "我小的时候，奶奶常常坐在院子里的枣树下，一边择菜，一边给我讲她年轻时的故事。",
    "公司决定从下个月起调整上班时间，员工可以在八点到十点之间自由选择到岗，只要工作满八小时。",
    "那位老木匠做了一辈子桌椅，他说好木头会自己告诉你该怎么用它，年轻人要先学会听，再学会动手刨和锯。",
    "火车穿过一个又一个隧道，窗外的景色忽明忽暗，孩子趴在玻璃上数着数，数到第十九个时终于靠着妈妈睡着了。",
    "第一次坐飞机的时候，他紧张得一句话也说不出来，直到看见云层上面的阳光，才慢慢松开扶手，对邻座的老人说，"
    "原来天上这么安静。",
)

SENTENCES: tuple[str, ...] = _ENGLISH + _CHINESE


def readable(tokenizer: "PreTrainedTokenizerBase | None") -> tuple[str, ...]:
    """Return the sentences that a tokenizer reads with few unknown tokens; all if there are none."""
    unknown = None if tokenizer is None else unknown_id(tokenizer)
    if tokenizer is None or unknown is None:
        return SENTENCES
    rows: Any = tokenizer(list(SENTENCES), padding=False, truncation=False, verbose=False)["input_ids"]
    read = (s for s, ids in zip(SENTENCES, rows, strict=True) if ids.count(unknown) < NOTED_SHARE * len(ids))
    return tuple(read) or SENTENCES
