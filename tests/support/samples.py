"""Make the sample library: six small PDFs about an invented town, for the demo and the tests.

Each document is a `Sample`: its looks, and its text in a small markup that `blocks` reads. Pages are parted
by `-----` and never run over: text that does not fit is an error. Everything told in the documents is
invented. The same files come out, byte for byte, at every run.

    python tests/support/samples.py samples/
"""

from __future__ import annotations

import argparse
import io
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

# reportlab ships no types
from reportlab.graphics.charts.barcharts import VerticalBarChart  # type: ignore[import-untyped]
from reportlab.graphics.charts.linecharts import HorizontalLineChart  # type: ignore[import-untyped]
from reportlab.graphics.shapes import (  # type: ignore[import-untyped]
    Circle,
    Drawing,
    Group,
    Line,
    Polygon,
    Rect,
    String,
)
from reportlab.graphics.widgets.markers import makeMarker  # type: ignore[import-untyped]
from reportlab.lib.colors import (  # type: ignore[import-untyped]
    Color,
    HexColor,
    linearlyInterpolatedColor,
    white,
)
from reportlab.lib.pagesizes import A4  # type: ignore[import-untyped]
from reportlab.lib.styles import ParagraphStyle  # type: ignore[import-untyped]
from reportlab.lib.utils import ImageReader, simpleSplit  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]
from reportlab.platypus import Flowable, Paragraph, Table  # type: ignore[import-untyped]

INK, GREY, AMBER = HexColor("#22272e"), HexColor("#6b7480"), HexColor("#d98a1f")
SLIDE = (800.0, 450.0)  # 16:9


@dataclass(frozen=True)
class Question:
    """A question that one page of one document answers (pages count from 0)."""

    text: str
    document: str
    page: int


QUESTIONS: tuple[Question, ...] = (
    Question("Which of the five regions had the highest revenue in 2024?", "annual-report.pdf", 5),
    Question("In which month did the pumping stations use the least electricity?", "annual-report.pdf", 6),
    Question("How many metres must the outdoor unit be away from a neighbour's window?", "heron-handbook.pdf", 3),
    Question("Why did three households leave the trial of the preheated walls early?", "wall-storage-paper.pdf", 2),
    Question("How much does the cooperative pay towards a bicycle for commuting?", "staff-handbook.pdf", 2),
)


@dataclass(frozen=True)
class Chart:
    """The numbers of a chart, one value per label in every series."""

    kind: str  # "bar" or "line"
    labels: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    x_title: str
    y_title: str
    step: float
    top: float


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CHARTS = {
    "revenue": Chart(
        "bar",
        ("Northshore", "Old Harbour", "Millfield", "Fenside", "Outer Isles"),
        {"2023": (7.9, 9.1, 6.8, 5.2, 3.7), "2024": (8.6, 11.4, 7.3, 5.6, 4.3)},
        "Region",
        "Revenue (million euros)",
        2,
        12,
    ),
    "energy": Chart(
        "line",
        MONTHS,
        {
            "2023": (412, 388, 351, 286, 214, 176, 158, 163, 209, 277, 349, 401),
            "2024": (398, 404, 332, 259, 187, 149, 121, 138, 182, 251, 318, 372),
        },
        "Month",
        "Electricity (MWh)",
        100,
        500,
    ),
    "demand": Chart(
        "line",
        ("0", "3", "6", "9", "12", "15", "18", "21"),
        {
            "Usual control": (0.9, 0.8, 1.6, 1.5, 1.1, 1.2, 2.3, 1.7),
            "Preheated walls": (0.9, 1.0, 1.4, 1.3, 1.3, 1.8, 1.5, 1.3),
        },
        "Hour of the day",
        "Demand per home (kW)",
        0.5,
        2.5,
    ),
    "sources": Chart(
        "bar",
        ("Gas boiler", "Harbour water", "Wood chips", "Waste heat"),
        {"Today": (58, 14, 21, 7), "2030": (6, 55, 18, 21)},
        "Heat source",
        "Share of heat (%)",
        20,
        60,
    ),
}

# The outdoor unit, seen from the front: left, bottom, width, height of each part, and its name.
UNIT_PARTS = (
    (60, 26, 250, 150, "Casing"),
    (252, 112, 42, 48, "Control box"),
    (252, 44, 42, 54, "Compressor"),
    (310, 68, 18, 9, "Flow pipe"),
    (310, 46, 18, 9, "Return pipe"),
    (256, 15, 30, 11, "Rubber foot"),
)

ANNUAL_REPORT = """
@cover
Annual Report 2024
Quillhaven Energy Cooperative
Heat, power and a quieter harbour for 11,200 member households
-----
# Contents

| Chapter | Page |
| Letter from the chair | iii |
| The year in brief | 1 |
| Results by segment | 2 |
| Where the money came from | 3 |
| What we used ourselves | 4 |
| Governance and risks | 5 |

## About this report

This report covers the calendar year 2024. Amounts are in euros; a thousand is written with a comma. Figures
of earlier years are shown as they were first published, unless a footnote says otherwise.

The members' assembly of 24 April 2025 received the report. The accounts were checked by the audit office
Pell and Marrin, whose statement can be read in full at the town library and in our customer office at 3
Ropewalk.

## How to read the charts

Bars compare years side by side; lines follow months. The lighter colour is always the earlier year. Where a
number matters it is printed next to its mark, so that nobody needs a ruler.
-----
# Letter from the chair

Dear members,

When the founders of this cooperative dug the first heat pipe under Ropewalk, they wrote in the minute book
that warmth should be "as dull as water from the tap". In 2024 we came close to that ideal. The network was
available for all but nine hours, and the longest interruption, in Millfield, was over before the soup was
cold.

It was also a year of building. The new harbour water heat pump began its test run in October. Two ferries
now charge at the quay overnight, and the diesel smell that greeted visitors for half a century has gone. We
installed 640 Heron heat pumps in houses that the network cannot reach, more than in the two years before
together.

Not everything went well. The advisory office lost two experienced people, and households waited up to seven
weeks for a visit. I am sorry for that. We have since hired three advisers and opened a Saturday desk.

The board proposes to pay no dividend and to place the surplus in the reserve for the Millfield extension.
Heat prices stay unchanged until September 2025.

Many of you asked in the spring why a cooperative that sells heat pumps also goes on digging for its
network. The answer is the map. Where houses stand close together, one pipe serves forty of them and the big
machines do the work more cheaply than forty small ones could. Where gardens lie between them, it is the
other way round. We no longer ask which of the two is better, only where each one belongs.

The harbour has taught us a second lesson. People who had never set foot in our office came to see the ferries
plugged in, and stayed to ask about their own cellars. A technology that can be watched at work needs few
leaflets.

Thank you for your patience with the trenches, and for every cup of tea brought out to the crews.

<i>Ingrid Sollweather</i><br/>Chair of the board
-----
# The year in brief

## January to April

A mild start was followed by a cold February. On the ninth of that month the network carried 61 megawatts, a
record. The boilers held in reserve ran for 212 hours in all, half as long as planned.

## May to August

Crews replaced 3.8 kilometres of pipe in Millfield and lowered the flow temperature there from 85 to 70
degrees. The change saves heat on its way to the customer: losses in the district fell from 16 to 11
percent. Solar leasing signed its thousandth roof, on the boat shed of the rowing club.

## September to December

The harbour water heat pump was connected in October. It takes warmth from the sea at a depth of 14 metres,
even when the water is only four degrees cold. Charging at the ferry quay started on the first of November
with two berths.

The year ended as it had begun, mild and wet. On Christmas Eve the shop at Ropewalk stayed open until noon,
because a storm had put out the lights on the Outer Isles; by the evening every house was warm again. A crew
of four spent the night on the islands and was fed, by its own account, eleven kinds of biscuit.

## Key figures

| | 2022 | 2023 | 2024 |
| Member households | 10,350 | 10,790 | 11,200 |
| Employees at year end | 131 | 138 | 152 |
| Length of network (km) | 84.1 | 86.5 | 91.0 |
| Heat pumps installed | 255 | 348 | 640 |
| Hours of interruption | 21 | 14 | 9 |
-----
# Results by segment

The cooperative reports five segments. District heat remains the largest, yet the growth came from heat pump
sales and from harbour charging, which closed its first year without a loss. Advisory is meant to break even
and missed that aim by a little.

## Turnover by segment

| Thousand euros | 2022 | 2023 | 2024 | Change |
| District heat | 18,420 | 19,870 | 21,340 | +7.4% |
| Heat pump sales and service | 6,150 | 7,480 | 9,260 | +23.8% |
| Harbour charging | 1,240 | 1,980 | 3,105 | +56.8% |
| Solar leasing | 2,310 | 2,690 | 2,845 | +5.8% |
| Advisory | 780 | 715 | 640 | -10.5% |
| Total | 28,900 | 32,735 | 37,190 | +13.6% |

= Table 1. Turnover of the segments; the last column compares 2024 with 2023.

## Operating profit by segment

| Thousand euros | 2022 | 2023 | 2024 |
| District heat | 2,480 | 2,610 | 2,905 |
| Heat pump sales and service | 590 | 640 | 1,015 |
| Harbour charging | -385 | -210 | 145 |
| Solar leasing | 470 | 520 | 498 |
| Advisory | 41 | 35 | -12 |
| Total | 3,196 | 3,595 | 4,551 |

= Table 2. Operating profit before interest and tax.

Costs of the head office are shared out by the number of employees in each segment. Interest on the loan for
the harbour water heat pump is not part of these tables; it amounted to 312 thousand euros.
-----
# Where the money came from

We divide our area into five regions. Each has its own crew and its own customer desk, so that revenue, cost
and complaints can be compared. Revenue is counted in the region where the heat or power is delivered, not
where the bill is paid.

[revenue]

= Figure 1. Revenue by region in 2023 and 2024, in million euros.

All regions grew. The largest step came with the ferry berths and the new flats on the old shipyard; the
Outer Isles, with few but loyal members, gained from solar leasing. Fenside has no network of its own and
lives on the sale and service of heat pumps.

## What to expect in 2025

With the extension of the network Millfield should pass Northshore for the first time. In the other regions
we plan with growth of two to four percent and with unchanged prices.
-----
# What we used ourselves

Moving hot water through 91 kilometres of pipe takes power. The 17 pumping stations are by far the largest
consumers within the cooperative, ahead of offices, workshops and vans. Their meters are read on the last
day of every month.

[energy]

= Figure 2. Monthly electricity use of the pumping stations, in megawatt hours.

New motors with speed control, fitted between March and May, explain most of the difference between the two
lines. In February the cold spell drove both the flow and the pressure up, and the saving of the winter was
lost for a month.

## Next steps

- Two stations on the Outer Isles still run at constant speed; their motors will be changed in the spring.
- From 2025 on the roof panels of the depot feed the station at Ropewalk directly.
- The target for the coming year is a further cut of five percent.
-----
# Governance and risks

## Who decides

The members' assembly meets in April and elects nine people to the board for three years. The board appoints
the managing director, approves the budget and sets the heat price. Two seats are kept for employees. In
2024 the board met eleven times; attendance was 94 percent.

## Main risks

| Risk | Likelihood | Our answer |
| A cold winter raises the price of reserve fuel | Medium | Fixed price for 60 percent of the volume |
| Jellyfish block the sea water inlet | Low | Second inlet with a coarse screen |
| Too few trained fitters | High | Own school with 14 places, higher pay for night duty |
| Attack on the control network | Medium | Stations can be run by hand for 72 hours |
| Higher interest on loans | Medium | Two thirds of the debt fixed until 2031 |

## Remuneration

Members of the board receive 240 euros for each meeting. The managing director earns 6.1 times the lowest
wage in the cooperative; the statutes allow a factor of seven.

## Statement of the board

The board confirms that the report gives a true picture of the position of the cooperative, and that no
event after the end of the year calls for a change to the accounts.
"""

HERON_HANDBOOK = """
@cover
Heron 9
Air to water heat pump
Handbook for owners and fitters
-----
# Before you begin

This handbook belongs to the appliance. Keep it near the indoor unit and hand it on when the house is
sold. The chapter on installation is meant for trained fitters; everything else can be done by the owner.

! <b>Danger: electric shock.</b> Behind the front panel there is mains voltage. Switch off both fuses and
wait ten minutes before the panel is opened. The capacitors stay charged.

! <b>Warning: flammable refrigerant.</b> The circuit holds 0.6 kilograms of propane. Keep flames and sparks
two metres away from the outdoor unit. If you smell gas, leave the area and call the service line.

! <b>Caution: hot surfaces.</b> The flow pipe can reach 75 degrees. Do not lay cables across it.

## Intended use

The Heron 9 warms the water of a closed heating circuit and the tap water of one household. It must not be
used for swimming pools, for stables or on board ships.

## Service line

Quillhaven Energy Cooperative answers day and night: 0555 0142. Have the serial number at hand; it is
printed on the right side of the casing, below the handle.

## Disposal

The appliance must not go into household waste. The cooperative takes old units back free of charge; only
trained people may drain the refrigerant.
-----
# Parts and technical data

[unit]

= Figure 1. Outdoor unit from the front, casing drawn as if of glass.

| Property | Heron 9 | Heron 9 Plus |
| Heating output at 7 degrees outdoors | 8.6 kW | 11.2 kW |
| Coefficient of performance | 4.7 | 4.4 |
| Sound at three metres, night mode | 31 dB | 34 dB |
| Lowest outdoor temperature | -22 °C | -22 °C |
| Highest flow temperature | 75 °C | 75 °C |
| Weight of outdoor unit | 118 kg | 131 kg |
| Fuse | 16 A | 20 A |

= Table 1. Technical data, measured by the maker.

The coefficient of performance tells how many units of heat are won from one unit of electricity. It falls
when the air is cold or the radiators are small. A well set heating curve is worth more than a larger
appliance.
-----
# Installation

## Choosing the place

The outdoor unit needs free air. Leave 30 centimetres to the wall behind it and 150 centimetres in front.
Keep four metres away from a neighbour's bedroom window. Melt water must be able to drain into gravel.

## Setting up

1. Pour a concrete slab of 110 by 50 centimetres, level to within five millimetres.
2. Let the slab harden for three days, then screw the four rubber feet onto it.
3. Lift the unit with two people or with a hoist. Never lift it by the pipes.
4. Connect flow and return with the hoses supplied, and tighten them to 45 newton metres.
5. Fill the circuit with softened water to 1.6 bar and bleed every radiator.
6. Pull the cables through the gland and connect them as shown on the lid of the control box.

## First start

1. Switch on both fuses. The display shows the bird and a date.
2. Choose language, date, and the kind of heating: floor, radiators or mixed.
3. Start the test run. It takes 40 minutes and ends with a report.
4. Sign the report with the owner and send a copy to the service line. The guarantee of seven years begins
that day.

! <b>Caution.</b> Do not start the test run when the outdoor air is colder than minus 15 degrees. The oil in
the compressor has to be warmed for twelve hours first.
-----
# Daily use and care

## The heating curve

The colder it is outdoors, the warmer the water that is sent to the radiators. The heating curve sets this
relation. If all rooms are too cold in frost but pleasant in spring, raise the slope by one step; if they
are always too cold, raise the level instead. Wait two days before you judge a change.

## Leaving home

For a weekend nothing needs to be done. When the house stands empty for a week or longer in winter, choose
holiday mode and set the room temperature to 14 degrees. Do not switch the heat pump off at the fuse: the
pump that guards the pipes against frost would stop as well. Tap water is not warmed in holiday mode, and on
the evening before your return the storage tank is heated once to 65 degrees to kill germs.

## Snow and ice

A white coat on the fins is normal. The unit thaws itself every hour or two and may steam like a kettle.
Sweep snow away from the front, and never scrape the fins with a shovel.

## Care through the year

| When | Task | By whom |
| Every month | Read the pressure; refill below 1.2 bar | Owner |
| Spring | Wash leaves and pollen off the fins with a soft brush | Owner |
| Autumn | Clean the dirt filter in the return pipe | Owner |
| Every two years | Check for leaks, measure the refrigerant | Fitter |
| Every five years | Renew the anode of the storage tank | Fitter |
-----
@rotate
# When something goes wrong

The display names a fault by a letter and two digits. Note the code before you reset the unit: hold the
round button for five seconds.

| Code | Meaning | Likely cause | What the owner can do | What the fitter does |
| A04 | Flow too low | Dirt filter is blocked, or a valve is closed | Open all radiators, clean the filter |
Measure the circulation pump|
| A11 | Pressure too low | Air was bled, or there is a leak | Refill to 1.6 bar and watch the gauge | Search
for the leak, renew the vessel|
| B02 | Thawing takes too long | Leaves or snow on the fins | Sweep the unit free | Check the thaw sensor |
| C07 | No link to the indoor unit | Cable damaged, often by martens | None; call the service line | Renew
the cable, fit a steel sleeve|
| C19 | Compressor too hot | Refrigerant is missing | Switch to the electric heater | Find the leak, refill
by weight|
| D01 | Sensor out of range | Plug is wet or loose | None; the unit goes on with a fixed value | Dry or
renew the plug |

= Table 2. Fault codes. The electric heater keeps the house above 16 degrees until help arrives.
"""

WALL_STORAGE_PAPER = """
# Walls That Wait: Shifting the Load of Heat Pumps with Brick as Storage

<b>M. Ferrowby, T. Oyelund and S. Castellane</b><br/><i>Institute for Slow Engineering, Quillhaven</i>

<b>Abstract.</b> Heat pumps draw most power when a town can spare it least, in the early evening. We ask
whether the brick of ordinary houses can wait for us: warmed in the afternoon, left alone at dusk. In a
field trial of one winter a simple planner moved part of the load away from the peak without any new
hardware but a sensor in the wall. We describe the planner, the trial and what the people in the houses made
of it.
~~~
## 1. Introduction

District networks and heat pumps compete for the same cables. In Quillhaven a third of the houses beyond the
reach of the heat network has changed from oil to heat pumps within six years, and the feeder lines of the
older quarters were laid for lamps and kettles. On cold evenings they are near their limit.

Tanks and batteries can shift load, but they cost money and room. Walls are there already. A terraced house
in the town holds about 40 tonnes of brick on the warm side of its insulation; each degree stores nine
kilowatt hours. Earlier work has treated this mass as a nuisance that makes control sluggish [1], or has
simulated its use with perfect knowledge of the house [2, 5].

We take a humbler road. The planner knows nothing of a house but what one sensor, the weather forecast and
the meter tell it, and it learns the rest within two weeks.

Our contribution is threefold: (a) a model of a wall with only two unknowns, (b) a planner that runs on the
processor of the heat pump itself, and (c) a trial with people who were free to switch it off at any time.

The paper is laid out as usual. Section 2 looks at what others have done, Section 3 describes the model, the
planner and the homes, Section 4 reports what happened, and Section 5 says what we would do differently.

>>>
## 2. Related work

Ludd and Amsel [1] measured how long brick houses stay warm after the boiler stops. Their curves are the
origin of our model. Preheating of concrete offices is common [3]; offices, however, are empty when the
evening peak arrives. Tenants' comfort under shifted heating was studied by Brauner [4] with questionnaires,
not with sensors. Simulations for whole towns [2, 5] promise a cut of the peak by half; none has been tested
in lived-in houses.

Closest to us is our own report [6], in which a single empty cottage was heated by plan for six weeks. It
showed that two unknowns describe a wall well enough, and that a cottage without people tells little about
people. The present work begins where that report ended.

A second strand of research changes not the machine but the bill: a higher price in the evening, and the
hope that people will turn down the heat themselves. Some do so in the first weeks. We know of no study in
which they still did after a year, and we do not blame them. A planner that acts alone, and can be told to
stop, asks less of everybody.
-----
~~~
## 3. Method

<b>Model.</b> A wall is seen as one store of heat with one resistance towards the room. Let <i>T</i> be its
temperature, <i>R</i> the temperature of the room and <i>q</i> the heat sent by the radiators. Then the
store follows

<i>dT/dt = a (R - T) + b q</i>

where <i>a</i> and <i>b</i> are the only unknowns. Both are fitted each night by least squares over the last
fourteen days.

<b>Planner.</b> Once an hour the planner lays out the coming day in steps of fifteen minutes. It seeks the
cheapest plan under a price that triples between five and eight in the evening, and keeps the room within
one degree of the wish of its people.

> Weather forecast > Planner > Heat pump > Wall and room

= Figure 1. The chain of control. A sensor in the wall reports back to the planner.

The plan is found by dynamic programming over 41 levels of stored heat. On the small processor of the
appliance this takes less than two seconds.

<b>Safeguards.</b> The planner may warm the room by no more than one degree above the wish, never cools it
by more than half a degree, and hands control back for a day whenever somebody turns the dial on the wall.
If the forecast is older than twelve hours it makes no plan at all.

<b>Price.</b> The price in the plan is not the price on the bill. It was drawn up with the network company
so that its high hours match those in which the feeder lines of the old quarters come close to their limit.

>>>
<b>Homes.</b> We invited owners of a Heron 9 heat pump with outer walls of brick; 64 homes took part,
built between 1894 and 1962. Half were drawn by lot to begin with the planner, the other half with usual
control; the groups changed places after eight weeks.

| Kind of home | Homes | Floor (m²) | Brick (t) |
| Terraced | 37 | 92 | 40 |
| Semi-detached | 18 | 118 | 52 |
| Detached | 9 | 141 | 66 |
| Total | 64 | 106 | 47 |

= Table 1. Homes in the trial, with mean floor area and mean mass of brick.

<b>Sensors.</b> A sensor of the size of a match was set six centimetres deep into an inner face of an outer
wall. Wall and room temperature were recorded every four minutes, electricity every minute. Data stayed in
the house until the evening and were sent as daily files.

<b>Comfort.</b> Each home had a button with three faces: too cold, fine, too warm. We asked people to press
it whenever they thought of it and counted 9,310 presses.

<b>Analysis.</b> Days were paired by outdoor temperature, to within one degree, and compared home by home.
Intervals were found by drawing homes, not days, a thousand times.
-----
~~~
## 4. Results

<b>Load.</b> Figure 2 shows the mean day in the cold weeks. The planner moves the rise of demand from the
evening into the afternoon. The highest quarter of an hour fell by 31 percent, with an interval from 26 to
37.

[demand]

= Figure 2. Electric demand of a mean home on days below zero degrees.

<b>Energy.</b> Warm walls lose more heat. Homes used 3.5 percent more electricity under the planner; the
price of a bill fell by 8 percent all the same, since cheap hours were used.

<b>Learning.</b> After five days the error of the model was below half a degree in most homes. Two weeks
were needed where a tiled stove was lit now and then.

<b>Weather.</b> On days above eight degrees there was little to gain, since the heat pumps rested for most
of the evening anyway. The gain was largest between minus two and plus three degrees. Below that the
machines ran without a break and had no slack to shift.

<b>Forecast.</b> Errors of the forecast mattered less than expected. When we gave the planner the true weather
afterwards, the cut of the peak would have grown by two points only.

>>>
<b>Comfort.</b> The share of presses on "fine" was 83 percent with the planner and 85 percent without.
People pressed "too warm" more often between three and five in the afternoon, and hardly ever noticed the
evening.

| Measure | Usual | Planner |
| Peak demand (kW) | 2.42 | 1.67 |
| Energy a day (kWh) | 31.8 | 32.9 |
| Cost a day (euros) | 9.10 | 8.37 |
| Presses on "fine" | 85% | 83% |
| Lowest room (°C) | 19.2 | 18.9 |

= Table 2. Means over all paired days.

<b>Dropouts.</b> Three households left the field trial early. Two of them moved house; the third gave up
because the preheated bedroom was too warm for a baby's afternoon sleep. Their days up to that point are
part of the analysis.

<b>Kinds of home.</b> Terraced houses did best, since they share walls with neighbours and lose little. In
detached houses the cut of the peak was only 19 percent.

<b>Faults.</b> In four homes the wall sensor lost its link for more than a day. The planner then fell back
to usual control, as designed, and nobody pressed a button.
-----
~~~
## 5. Discussion

The effect is smaller than simulations had promised and larger than we had dared to hope. Three limits
deserve a word. First, all homes were heated by the same appliance; others may not let a planner steer them.
Second, the winter was mild, with only eleven days below minus five degrees. Third, people who volunteer for
a trial are patient people.

For a network company the number that counts is the peak of a whole feeder line, not of one home. If every
house in the quarter preheated at the same hour, a new peak would be born in the afternoon. A planner should
therefore be told the load of the line, or at least toss a coin about when to begin.

We were also asked whether the walls themselves suffer. Bricks that are warmed and cooled by two degrees a
day go through less than they do on any sunny afternoon. The plaster around the sensors was looked at in
every home at the end of the winter, and no cracks were found that had not been there before.

What would we do differently? The button with three faces was a success, but we should have put it next to
the bed rather than next to the door. And a sensor in each of two walls would have told us how far one wall
may speak for a house.

## 6. Conclusion

Brick can wait. With one cheap sensor and a page of arithmetic, the walls of old houses carry part of the
evening. We will repeat the work with houses of timber, where we expect little, and with schools, where we
expect a lot.

>>>
## Acknowledgements

We thank the households, the fitters of the energy cooperative, and the cat of the Aldous family, who found
the only faulty sensor.

The fee for the grid measurements was waived by the network company. No author holds shares in a maker of
heat pumps; one lives in a brick house.

## Data

Daily means of all homes that agreed, and the source of the planner, are kept at the institute and are given
to anyone who writes to us. Minute values are not given away, since they show when people are at home.

## References

[1] P. Ludd and K. Amsel. How long does a brick house remember? <i>Annals of Domestic Heat</i>, 12, 2009.

[2] R. Vantongeren. A town as a battery: simulating storage in 4,000 buildings. <i>Northern Energy
Letters</i>, 3, 2017.

[3] H. Isaksdottir and J. Poole. Overnight charging of concrete floors in offices. <i>Building and
Patience</i>, 28, 2014.

[4] L. Brauner. Asking tenants about warmth. <i>Journal of Everyday Comfort</i>, 7, 2019.

[5] D. Quist, F. Nakagome and B. Teale. Peak shaving with thermal mass under perfect foresight. <i>Northern
Energy Letters</i>, 8, 2022.

[6] S. Castellane. Two unknowns are enough. Technical report 41, Institute for Slow Engineering, 2023.
"""

STAFF_HANDBOOK = """
@cover
Staff Handbook
Rules and benefits for people at work
Quillhaven Energy Cooperative, edition of January 2025
-----
# Welcome

You have joined 152 colleagues who keep a town warm. This handbook tells you what you may expect of the
cooperative and what it expects of you. If a rule seems unfair or silly, tell the staff council; several
rules in this edition began as a complaint over lunch.

## Working hours

Full time is 37 hours a week. Office staff choose when to begin and end, as long as they can be reached
between ten and three o'clock. Crews work in shifts that are published four weeks ahead. A change at shorter
notice needs your consent and is paid with a bonus of 15 percent.

Hours beyond 37 go to a time account. It may hold up to 60 hours; what lies above is paid out in March.

## Working from home

Up to three days a week can be worked from home if your tasks allow it. The cooperative lends a screen, a
chair and a desk lamp. Work from abroad is possible for 20 days a year within the customs union; ask the
payroll office first.

## Night duty

Fitters take turns on night duty, one week in seven. A call must be answered within ten minutes, and the van
has to be on the road within thirty. After a call at night the next working day starts eleven hours later at
the earliest.

## Probation

The first four months are a trial for both sides. During this time notice is two weeks; afterwards it is two
months to the end of a month.
-----
# Benefits at a glance

All benefits apply to full and part time alike unless the table says otherwise. Amounts for part time staff
are not reduced.

| Benefit | What the cooperative pays | From |
| Pension | Adds 7 percent of pay to the town pension fund | First day |
| Health check | One check a year at the harbour clinic | First day |
| Ferry pass | Free travel on all lines of the town ferry | First day |
| Bicycle | Up to 900 euros towards a bicycle for commuting, once in four years | After 6 months |
| Heat at home | Discount of 12 percent on district heat or heat pump service | After 6 months |
| Courses | Up to 1,500 euros a year, and five paid days for study | After 1 year |
| Childcare | 180 euros a month for each child under six | After 1 year |
| Sabbatical | Three months at half pay | After 7 years |

= Table 1. Benefits in 2025.

## How to claim

Send the receipt to the payroll office by the tenth of the month and the money comes with your next pay.
Receipts may be photographed. Claims older than one year lapse.

## Tax

The ferry pass and the health check are free of tax. All other benefits appear on your pay slip and are
taxed as wages.

! <b>Note.</b> Benefits end on the last day of employment, except for the discount on heat, which pensioners
keep.
-----
# Leave and absence

## Annual leave

Everybody has 28 days of annual leave. From the age of fifty there are two more. Up to five days can be
carried into the next year and must be taken before the end of April. Crews do not take leave in the two
weeks in which the network is refilled, usually in September.

## Illness

Call your team before your shift begins. A doctor's note is needed from the fourth day on. Pay continues in
full for ten weeks and at 80 percent for a further 26.

## Parents

Each parent may take up to 14 months until the child starts school, in one piece or in three. Ask for it in
writing eight weeks before it starts. The first ten weeks are paid in full by the cooperative.

## Care for others

If a relative suddenly needs care, stay away for up to ten days and call us when you can. Longer care leave
of up to six months is unpaid, but your place is kept.

## Special days

| Occasion | Paid days |
| Own wedding | 2 |
| Moving house | 1 |
| Death of a close relative | 4 |
| Volunteer fire brigade or lifeboat | As needed |
| Blood donation | Half a day |
-----
# Travel, expenses and conduct

## Travel for work

Take the train or the ferry where you can. Flights need the consent of the managing director. Whoever uses a
private car receives 0.34 euros a kilometre; whoever cycles to a customer receives 0.25 euros.

| Expense | Limit | Receipt needed |
| Hotel, per night | 140 euros | Yes |
| Meals, full day | 38 euros | No |
| Meals, half day | 19 euros | No |
| Gift for a host | 25 euros | Yes |

= Table 2. Travel expenses.

## Gifts

Cake from a grateful customer may be eaten. Anything worth more than 25 euros is to be declined politely, or
handed to the raffle of the summer party.

## Safety

- Nobody works alone in a shaft, in the boiler hall or on the quay after dark.
- Helmets and boots are provided and renewed by the store; worn ones are swapped without questions.
- Everyone may stop any work that looks unsafe. No one has ever been blamed for it.

## Data and devices

Customer data stay on the cooperative's own machines. Lost phones and laptops must be reported within the
hour, at any time of day, on the service line.

## If something is wrong

Speak to your team, to the staff council, or to the outside counsel, whose number is on the board in the
canteen. Reports may be made without a name.
"""

ARCHIVE_BULLETIN = """
# Papers from the boiler house

<b>Bulletin of the Quillhaven Town Archive, number 12</b>

When the old boiler house on Ropewalk was cleared last spring, a fitter found a biscuit tin behind a meter
cupboard. It held letters, coal tickets, a whistle and some loose leaves of a ledger. The tin had kept out
the damp but not the mice.

The papers belong to the years in which the town first argued about heating from a common source. They show
how close the harbour commissioner and the council came to giving up, and what a single cold winter changed.

We print two sheets as they are, from the scanner of the reading room. They have not been cleaned, turned or
copied out: one can learn a good deal from a stain.

## What is in the tin

| Item | Count | State |
| Letters, typed | 11 | Good; two torn at the fold |
| Ledger leaves | 6 | Brown, edges eaten |
| Coal tickets | 140 | Good |
| Photographs | 3 | Faded, people not named |
| Whistle of a boiler man | 1 | Still works |

= Table 1. Contents of the tin, as listed on the day it was found.

## Come and see

The originals are on show in the reading room of the town library until the end of August, Tuesday to
Saturday from ten to five. Gloves are provided. School classes are welcome by arrangement.
-----
@scan
        QUILLHAVEN HARBOUR COMMISSION
             14 Customs Stairs

                              3rd March 1951

To the Town Council
Ropewalk

Gentlemen,

I write for the fourth time about the steam
pipe which your engineer proposes to lay under
the east quay.

The Commission has no quarrel with warm
houses. It objects to a trench of two yards'
depth across the only road by which fish
leave this town, and in the herring season.

Should the Council agree to dig by night, and
to cover the trench with iron plates by five
in the morning, I am prepared to withdraw the
objection, on payment of forty pounds towards
the repair of the crane.

The plates may be borrowed from us. Kindly
return them. The last ones were not.

            Your obedient servant,

            A. Threlkeld
            Harbour Commissioner
-----
@scan
   BOILER HOUSE  -  COAL AND STEAM LEDGER

   Week of 12 February 1951          Leaf 37
   -----------------------------------------
   Day       Coal     Steam    Lowest
             cwt      hours    deg F
   -----------------------------------------
   Monday      61        14       23
   Tuesday     64        15       21
   Wednesday   72        18       16
   Thursday    88        24        9
   Friday      93        24        7
   Saturday    90        24       11
   Sunday      70        17       19
   -----------------------------------------
   Week       538       136

   Remarks

   Thurs.  Grate no. 2 cracked. Wedged with
           a tram rail. Holds.
   Fri.    School and hospital only. Baths
           shut. Men fed by the Sisters.
   Sat.    Barge "Constance" through the ice
           with 40 tons. Cheers on the quay.

                      J. Pocklington
                      Foreman of the boilers
-----
# Notes on the sheets

## The letter

The commissioner typed his letters himself, on a machine whose letters jump. His quarrel with the council
fills a whole box in the archive. It ended well: the first pipe was laid in the autumn of the same year, and
parts of it were in service until 1998, when the present network took over.

The stamp in the corner is ours, and recent. Whether the sum he asks for was ever paid cannot
be said; the accounts of the year are lost.

## The ledger

The leaf records one week of the hard winter. A hundredweight, written cwt, is about 51 kilograms. The
lowest temperature of each day was read at the door of the boiler house, with a thermometer that hung next
to a warm wall, so that the nights were colder than the numbers tell.

The ledger was kept by the foreman. Two of his grandchildren work for the energy cooperative today, one as a
fitter on night duty, and both were present when the tin was opened.

## How the sheets were scanned

1. The sheets were flattened under glass for two days.
2. They were scanned in grey, at a low resolution, without any change of contrast.
3. The turn of the paper and the dirt of the glass were left as they are.

## Help us read

Readers who can name the people in the photographs, or who own other papers from the boiler house, are asked
to write to the archive, 8 Ropewalk, Quillhaven.
"""

MILLFIELD_SLIDES = """
@cover
Warm water from cold water
The Millfield extension of the heat network
Evening for residents, 12 May 2025
-----
# Why now?

- The gas main in Millfield is 58 years old and has to be renewed or closed by 2029.
- 870 of 1,340 homes have said they would join a network.
- The harbour water heat pump has room to spare: it runs at half its output.
- A trench dug once can carry heat, power and data together.

! <b>Nobody is forced to join.</b> Gas is supplied until the end of 2029.
-----
# Where the heat comes from
~~~
Today more than half of our heat is made from gas. Sea water takes over step by step.

- Second harbour pump in 2026
- Waste heat of the fish works and the bakery from 2027
- The gas boiler stays as a reserve for frosty weeks

>>>
[sources]

= Share of each source in our heat
-----
# From first trench to warm radiator

> Survey of cellars, summer 2025 > Main pipe in Mill Lane, spring 2026 > Side streets, 2026 to 2028 > Gas
main closed, 2029

## What it means for your street

- A trench is open for about three weeks; footpaths stay usable all the time.
- Pipes go into the cellar through a hole as wide as a dinner plate.
- Changing over takes one day. The water is off for two hours.
-----
# What will it cost me?

| Home | Joining fee | Heat a year | Gas today, a year |
| Flat, 65 m² | 1,900 euros | 760 euros | 890 euros |
| Terraced house, 95 m² | 3,400 euros | 1,080 euros | 1,290 euros |
| Detached house, 140 m² | 5,200 euros | 1,610 euros | 1,930 euros |

= Prices of May 2025, with tax. The fee can be paid in 60 monthly parts without interest.

Sign before the end of October and we take away your old boiler at no cost.
-----
# Questions we are often asked
~~~
## Will it be loud?

The pump stands in the old ice house by the harbour. At the nearest window it is quieter than a fridge.

## And if it fails?

Two reserve boilers can carry the whole network. A mobile one fits on a lorry.

>>>
## Do I need new radiators?

In nine out of ten homes no. We check it when we survey your cellar.

## Whom do I ask?

Come to the Saturday desk, 3 Ropewalk, or write to Noor Abernathy, who leads the extension.
"""


@dataclass(frozen=True)
class Sample:
    """A document: what it says (`text`, in the markup of `blocks`) and how it looks."""

    file: str
    title: str
    author: str
    text: str
    accent: str
    font: str = "Helvetica"
    size: float = 12.0
    paper: tuple[float, float] = A4
    front_matter: int = 0  # so many pages at the start are numbered i, ii, iii

    def style(self, scale: float = 1.0, **changes: object) -> ParagraphStyle:
        """Body text of this document, or text that differs from it by `changes`."""
        size = self.size * scale
        given = {"fontName": self.font, "fontSize": size, "leading": size * 1.38, "textColor": INK}
        return ParagraphStyle("text", **{**given, "spaceAfter": self.size * 0.7, **changes})

    def tint(self, strength: float) -> Color:
        """The accent colour mixed with white; strength 1 is the accent itself."""
        return linearlyInterpolatedColor(white, HexColor(self.accent), 0, 1, strength)

    @property
    def bold(self) -> str:
        """The name of the bold font."""
        return {"Times-Roman": "Times-Bold"}.get(self.font, f"{self.font}-Bold")

    @property
    def italic(self) -> str:
        """The name of the italic font."""
        return {"Times-Roman": "Times-Italic"}.get(self.font, f"{self.font}-Oblique")


COOPERATIVE = "Quillhaven Energy Cooperative"
SAMPLES = (
    Sample("annual-report.pdf", "Annual Report 2024", COOPERATIVE, ANNUAL_REPORT, "#1f5f7a", front_matter=3),
    Sample("heron-handbook.pdf", "Heron 9 Handbook", COOPERATIVE, HERON_HANDBOOK, "#a63d2f", size=12.5),
    Sample(
        "wall-storage-paper.pdf",
        "Walls That Wait",
        "M. Ferrowby, T. Oyelund, S. Castellane",
        WALL_STORAGE_PAPER,
        "#3a4a63",
        font="Times-Roman",
        size=11.5,
    ),
    Sample("staff-handbook.pdf", "Staff Handbook", COOPERATIVE, STAFF_HANDBOOK, "#3f7150"),
    Sample(
        "archive-bulletin.pdf",
        "Papers from the Boiler House",
        "Quillhaven Town Archive",
        ARCHIVE_BULLETIN,
        "#77563a",
        font="Times-Roman",
        size=13.5,
    ),
    Sample(
        "millfield-slides.pdf",
        "The Millfield Extension",
        COOPERATIVE,
        MILLFIELD_SLIDES,
        "#27496d",
        size=18,
        paper=SLIDE,
    ),
)


def make_samples(folder: Path) -> list[Path]:
    """Write all sample documents into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        _write(sample, folder / sample.file)
    return [folder / sample.file for sample in SAMPLES]


def _write(sample: Sample, path: Path) -> None:
    canvas = Canvas(str(path), pagesize=sample.paper, pageCompression=1, invariant=1)
    canvas.setTitle(sample.title)
    canvas.setAuthor(sample.author)
    canvas.setSubject("Sample document; everything in it is invented")
    canvas.setCreator("the sample library of nemovlm")
    if sample.front_matter:
        canvas.addPageLabel(0, style="ROMAN_LOWER")
        canvas.addPageLabel(sample.front_matter, style="ARABIC")
    for number, page in enumerate(sample.text.strip("\n").split("\n-----\n")):
        kind, _, text = page.partition("\n") if page.startswith("@") else ("", "", page)
        size = sample.paper[::-1] if kind == "@rotate" else sample.paper  # as seen
        canvas.setPageSize(size)
        canvas.setPageRotation(90 if kind == "@rotate" else 0)
        if kind == "@cover":
            _cover(canvas, sample, text.split("\n"))
        elif kind == "@scan":
            canvas.drawImage(ImageReader(scanned(text)), 0, 0, *sample.paper)
        else:
            if kind == "@rotate":  # the viewer turns the page clockwise, so it is drawn the other way round
                canvas.translate(size[1], 0)
                canvas.rotate(90)
            label = number + 1 - sample.front_matter
            _page(canvas, sample, text, size, str(label) if label > 0 else "i" * (number + 1))
        canvas.showPage()
    canvas.save()


def _page(canvas: Canvas, sample: Sample, text: str, size: tuple[float, float], label: str) -> None:
    """Draw running head, page label and text; what follows `~~~` is set in two columns."""
    (width, height), margin, small = size, 50.0, sample.size * 0.4 + 3.8
    canvas.setFillColor(HexColor(sample.accent))
    canvas.rect(0, height - 8, width, 8, stroke=0, fill=1)
    canvas.setFillColor(GREY)
    canvas.setFont(sample.font, small)
    canvas.drawString(margin, height - 32, sample.title)
    canvas.drawRightString(width - margin, height - 32, sample.author)
    canvas.drawCentredString(width / 2, 22, label)
    inner, gutter = width - 2 * margin, 22.0
    whole, _, columns = text.partition("~~~\n")
    left, y = _flow(canvas, blocks(whole, sample, inner), margin, height - 58, inner)
    narrow = (inner - gutter) / 2
    for x, column in zip((margin, margin + narrow + gutter), columns.split(">>>\n"), strict=False):
        left, _ = _flow(canvas, left + blocks(column, sample, narrow), x, y, narrow)
    if left:
        raise ValueError(f"page {label} of {sample.file} is too full by {len(left)} blocks")


def _flow(canvas: Canvas, parts: list[Flowable], x: float, y: float, width: float) -> tuple[list[Flowable], float]:
    """Draw parts downwards from `y`; return those that did not fit and the height that was reached."""
    for n, part in enumerate(parts):
        y -= part.getSpaceBefore()
        used = part.wrapOn(canvas, width, y)[1]
        if y - used < 36:
            first, *rest = part.splitOn(canvas, width, y - 36) or [part]
            if rest:
                first.drawOn(canvas, x, y - first.wrapOn(canvas, width, y)[1])
            return [*(rest or [first]), *parts[n + 1 :]], 36
        part.drawOn(canvas, x, y - used)
        y -= used + part.getSpaceAfter()
    return [], y


def blocks(text: str, sample: Sample, width: float) -> list[Flowable]:
    """Read the markup: blocks are parted by empty lines, and the first word of a block tells its kind.

    `#` and `##` headings, `-` and `1.` lists, `|` tables, `!` boxes, `=` captions, `>` chains of boxes, and
    `[name]` figures.
    """
    em, bold = sample.size, sample.bold
    texts = {
        "#": sample.style(1.9, fontName=bold, textColor=HexColor(sample.accent)),
        "##": sample.style(1.18, fontName=bold, spaceBefore=em * 0.6, spaceAfter=em * 0.4),
        "=": sample.style(0.86, fontName=sample.italic, textColor=GREY, spaceAfter=em),
    }
    others: dict[str, Callable[[str, Sample, float], list[Flowable]]] = {
        "!": _box,
        "-": _list,
        "1.": _list,
        "|": _table,
        ">": _chain,
        "[unit]": _unit,
    }
    others |= {f"[{name}]": partial(_chart, chart) for name, chart in CHARTS.items()}
    parts: list[Flowable] = []
    for block in filter(None, re.split(r"\n\s*\n", text.strip())):
        mark, _, rest = block.partition(" ")
        if mark in others:
            parts += others[mark](block, sample, width)
        else:
            parts.append(Paragraph(rest, texts[mark]) if mark in texts else Paragraph(block, sample.style()))
    return parts


def _list(block: str, sample: Sample, _width: float) -> list[Flowable]:
    items = re.split(r"^(-|\d+\.) ", block, flags=re.MULTILINE)[1:]
    style = sample.style(leftIndent=sample.size * 1.7, spaceAfter=sample.size * 0.4)
    style.bulletFontName, style.bulletFontSize = sample.font, sample.size
    pairs = zip(items[::2], items[1::2], strict=True)
    return [Paragraph(item, style, bulletText="•" if mark == "-" else mark) for mark, item in pairs]


def _box(block: str, sample: Sample, width: float) -> list[Flowable]:
    look = [
        ("BACKGROUND", (0, 0), (-1, -1), HexColor("#fdf3e1")),
        ("LINEBEFORE", (0, 0), (0, -1), 4, AMBER),
        ("LEFTPADDING", (0, 0), (-1, -1), 12),
        ("TOPPADDING", (0, 0), (-1, -1), 7),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 8),
    ]
    text = Paragraph(block.removeprefix("! "), sample.style(spaceAfter=0))
    return [Table([[text]], [width], style=look, spaceBefore=4, spaceAfter=sample.size)]


def _table(block: str, sample: Sample, width: float) -> list[Flowable]:
    """The first row is the head; columns of numbers at the end are set to the right, `Total` in bold."""
    rows = [[cell.strip() for cell in row.strip()[1:-1].split("|")] for row in re.split(r"\n(?=\|)", block)]
    columns = list(zip(*rows, strict=True))
    numeric = [all(re.match(r"[-+]?\d", cell) and len(cell) < 13 for cell in c[1:]) for c in columns]
    lengths = [min(max(8, *map(len, column)), 34) + 2 for column in columns]

    def cell(text: str, row: int, column: int) -> Paragraph:
        strong = row == 0 or rows[row][0] == "Total"
        colour = white if row == 0 else INK
        font = sample.bold if strong else sample.font
        align = 2 if all(numeric[column:]) else 0
        style = sample.style(0.9, fontName=font, textColor=colour, alignment=align, spaceAfter=0)
        return Paragraph(text, style)

    cells = [[cell(text, r, c) for c, text in enumerate(row)] for r, row in enumerate(rows)]
    look = [
        ("BACKGROUND", (0, 0), (-1, 0), HexColor(sample.accent)),
        ("ROWBACKGROUNDS", (0, 1), (-1, -1), [white, sample.tint(0.07)]),
        ("LINEBELOW", (0, -1), (-1, -1), 0.8, HexColor(sample.accent)),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("TOPPADDING", (0, 0), (-1, -1), sample.size * 0.3),
        ("BOTTOMPADDING", (0, 0), (-1, -1), sample.size * 0.4),
    ]
    widths = [width * length / sum(lengths) for length in lengths]
    return [Table(cells, widths, style=look, spaceAfter=sample.size * 0.8)]


def _label(sample: Sample, size: float, x: float, y: float, text: str, *, anchor: str = "middle") -> String:
    return String(x, y, text, fontName=sample.font, fontSize=size, fillColor=INK, textAnchor=anchor)


def _chart(chart: Chart, _block: str, sample: Sample, width: float) -> list[Flowable]:
    """A bar or line chart with grid, axis titles and a legend above it."""
    height, small = min(width * 0.7, 290), 6.2 + sample.size / 4
    drawing = Drawing(width, height)
    plot = VerticalBarChart() if chart.kind == "bar" else HorizontalLineChart()
    plot.x, plot.y, plot.width, plot.height = 40, 40, width - 50, height - 68
    plot.data = list(chart.series.values())
    plot.categoryAxis.categoryNames = list(chart.labels)
    plot.valueAxis.valueMin, plot.valueAxis.valueMax, plot.valueAxis.valueStep = 0, chart.top, chart.step
    plot.valueAxis.visibleGrid, plot.valueAxis.gridStrokeColor = 1, HexColor("#dfe3e8")
    for axis in (plot.categoryAxis, plot.valueAxis):
        axis.labels.fontName, axis.labels.fontSize = sample.font, small
        axis.strokeColor, axis.visibleTicks = GREY, 0
    colours = [sample.tint(0.42), HexColor(sample.accent)]
    if chart.kind == "bar":
        plot.groupSpacing, plot.barSpacing = 12, 1
        plot.barLabelFormat, plot.barLabels.nudge = "%s", 7
        plot.barLabels.fontName, plot.barLabels.fontSize = sample.font, small
    for n, (name, colour) in enumerate(zip(chart.series, colours, strict=True)):
        if chart.kind == "bar":
            plot.bars[n].fillColor, plot.bars[n].strokeColor = colour, None
        else:
            plot.lines[n].strokeColor, plot.lines[n].strokeWidth = colour, 2
            plot.lines[n].symbol = makeMarker("FilledCircle", size=4, fillColor=colour, strokeColor=None)
        x = 42 + n * 90
        drawing.add(Rect(x, height - 14, 9, 9, fillColor=colour, strokeColor=None))
        drawing.add(_label(sample, small + 0.5, x + 14, height - 13, name, anchor="start"))
    drawing.add(plot)
    drawing.add(_label(sample, small, 40 + plot.width / 2, 8, chart.x_title))
    side = _label(sample, small, 0, 0, chart.y_title)
    drawing.add(Group(side, transform=(0, 1, -1, 0, 10, 40 + plot.height / 2)))
    return [drawing]


def _chain(block: str, sample: Sample, width: float) -> list[Flowable]:
    """Boxes from left to right, joined by arrows."""
    names = " ".join(block.split()).removeprefix("> ").split(" > ")
    step, gap, size = width / len(names), 16.0, min(sample.size * 0.8, width / 38)
    box, height = step - gap, size * 5.2
    drawing = Drawing(width, height + 12)
    for n, name in enumerate(names):
        x = n * step + gap / 2
        shade = sample.tint(0.12 + 0.1 * n)
        drawing.add(Rect(x, 9, box, height, rx=6, ry=6, fillColor=shade, strokeColor=HexColor(sample.accent)))
        lines = simpleSplit(name, sample.font, size, box - 8)
        for k, line in enumerate(lines):
            y = 9 + height / 2 + (len(lines) / 2 - k) * size * 1.2 - size
            drawing.add(_label(sample, size, x + box / 2, y, line))
        if n:
            tip, middle = x - 2, 9 + height / 2
            drawing.add(Line(x - gap + 1, middle, tip, middle, strokeColor=GREY, strokeWidth=1.4))
            head = [tip, middle, tip - 5, middle + 3.5, tip - 5, middle - 3.5]
            drawing.add(Polygon(head, fillColor=GREY, strokeColor=None))
    return [drawing]


def _unit(_block: str, sample: Sample, width: float) -> list[Flowable]:
    """The outdoor unit with its fan, and the names of its parts beside it."""
    drawing = Drawing(width, 200)
    drawing.add(Rect(84, 15, 30, 11, rx=4, ry=4, fillColor=sample.tint(0.28), strokeColor=INK))
    for n, (x, y, w, h, name) in enumerate(UNIT_PARTS):
        shade = sample.tint(0.06 if n == 0 else 0.28)
        drawing.add(Rect(x, y, w, h, rx=4, ry=4, fillColor=shade, strokeColor=INK, strokeWidth=1))
        start = (x + w - 4, y + 4 if name == "Rubber foot" else y + h - 4)
        drawing.add(Line(*start, 370, 176 - 30 * n, strokeColor=GREY, strokeWidth=0.7))
        drawing.add(_label(sample, 11, 376, 172 - 30 * n, name, anchor="start"))
    for radius in (66, 52, 38, 24):
        drawing.add(Circle(152, 101, radius, fillColor=white if radius == 66 else None, strokeColor=GREY))
    for k in range(5):
        turn = math.tau * k / 5
        tip = (152 + 60 * math.cos(turn), 101 + 60 * math.sin(turn))
        drawing.add(Line(152, 101, *tip, strokeColor=HexColor(sample.accent), strokeWidth=9, strokeLineCap=1))
    drawing.add(Circle(152, 101, 12, fillColor=INK, strokeColor=None))
    return [drawing]


def _cover(canvas: Canvas, sample: Sample, lines: list[str]) -> None:
    """Title, second line and third line above a sea of four waves."""
    width, height = sample.paper
    scale = min(width / 595, height / 450)
    canvas.setFillColor(sample.tint(0.14))
    canvas.rect(0, 0, width, height, stroke=0, fill=1)
    canvas.setFillColor(HexColor("#f0b95b"))
    canvas.circle(width * 0.76, height * 0.4, 62 * scale, stroke=0, fill=1)
    for n in range(4):
        shore = canvas.beginPath()
        shore.moveTo(0, 0)
        for x in range(0, int(width) + 6, 5):
            shore.lineTo(x, height * (0.36 - 0.09 * n) + 16 * math.sin(x / (62 + 14 * n) + 1.9 * n))
        shore.lineTo(width, 0)
        canvas.setFillColor(sample.tint(0.45 + 0.18 * n))
        canvas.drawPath(shore, stroke=0, fill=1)
    sizes = (42 * scale, 18 * scale, 12.5 * scale)
    y = height * 0.8
    for line, size, font in zip(lines, sizes, (sample.bold, sample.font, sample.italic), strict=True):
        canvas.setFont(font, size)
        canvas.setFillColor(HexColor(sample.accent) if size == sizes[0] else INK)
        canvas.drawString(56, y, line)
        y -= size * 0.55 + 20


def scanned(text: str) -> io.BytesIO:
    """Text as a JPEG of an old typed sheet under a scanner: grey, slightly turned and dirty."""
    rng = random.Random(len(text))
    size = width, height = 1000, 1414
    sheet = Image.new("L", size, 168)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((38, 34, width - 44, height - 40), fill=222, outline=120)
    draw.ellipse((610, 1010, 800, 1195), outline=196, width=9)  # a cup was put down here
    for y in (430, 980):
        draw.ellipse((62, y, 94, y + 32), fill=150)  # punch holes
    typed = ImageFont.load_default(size=26)
    for row, line in enumerate(text.split("\n")):
        for column, letter in enumerate(line):
            place = (130 + column * 16.6 + rng.uniform(-1, 1), 150 + row * 36 + rng.uniform(-1.6, 1.6))
            draw.text(place, letter, font=typed, fill=rng.randint(30, 95), anchor="ms")
    stamp = Image.new("L", (330, 90), 0)
    draw = ImageDraw.Draw(stamp)
    draw.rectangle((4, 4, 325, 85), outline=120, width=5)
    draw.text((165, 45), "TOWN ARCHIVE", font=ImageFont.load_default(size=36), fill=120, anchor="mm")
    stamp = stamp.rotate(9, expand=True, resample=Image.Resampling.BICUBIC)
    sheet.paste(70, (590, 1248), stamp)
    sheet = sheet.rotate(rng.choice((-1.4, 1.2)), resample=Image.Resampling.BICUBIC, fillcolor=150)
    noise = Image.frombytes("L", size, rng.randbytes(width * height)).filter(ImageFilter.GaussianBlur(0.8))
    sheet = Image.blend(sheet, noise, 0.14).filter(ImageFilter.GaussianBlur(0.7))
    jpeg = io.BytesIO()
    sheet.save(jpeg, "JPEG", quality=48)
    return jpeg


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the sample PDF library.")
    parser.add_argument("folder", type=Path, help="where the documents are written")
    for made in make_samples(parser.parse_args().folder):
        print(made)
