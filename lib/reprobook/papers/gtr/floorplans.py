"""The floor plans of ALFWorld as data: what stands where, what can lie on what, what can be done to what.

From the wheel alfworld 0.4.2 (MIT, copyright 2020 Mohit Shridhar and others): ``gen/layouts/FloorPlan*-openable.json``
(receptacles and the place from which each is reached), ``FloorPlan*-objects.json`` (kinds of objects) and
``gen/constants.py`` (what a receptacle may hold, what can be heated, cooled, cleaned, toggled and sliced). Left out are
sliced objects and whatever can neither hold nor be picked up, lamps excepted. A kind of receptacle that only the second
file names stands there once, at a place of its own.
"""

from __future__ import annotations

import string
from functools import cache
from typing import NamedTuple

# Kind of receptacle: kinds of objects that may be put in or on it.
_HOLDS = """
ArmChair: BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl
BathtubBasin: Cloth DishSponge HandTowel SoapBar
Bed: BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket
Cabinet: Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper
  Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper
  ToiletPaperRoll Vase WateringCan WineBottle
Cart: Candle Cloth DishSponge HandTowel Mug PaperTowel Plunger SoapBar SoapBottle SprayBottle Statue
  TissueBox ToiletPaper ToiletPaperRoll Vase
CoffeeMachine: Mug
CounterTop: AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone
  Cloth CreditCard Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop
  Lettuce Mug Newspaper Pan PaperTowel Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker
  SoapBar SoapBottle Spatula Spoon SprayBottle Statue TennisRacket TissueBox ToiletPaper ToiletPaperRoll
  Tomato Vase Watch WateringCan WineBottle
Desk: AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle KeyChain
  Laptop Mug Newspaper Pen Pencil Plate RemoteControl SoapBottle SprayBottle Statue TennisRacket
  TissueBox ToiletPaper ToiletPaperRoll Vase Watch WateringCan WineBottle
Drawer: Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife
  Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon
  SprayBottle TissueBox ToiletPaper ToiletPaperRoll Watch WateringCan
Dresser: AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle
  KeyChain Laptop Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox
  ToiletPaper ToiletPaperRoll Vase Watch WateringCan WineBottle
Fridge: Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle
GarbageCan: Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper PaperTowel Pen Pencil Potato
  SoapBar SoapBottle SprayBottle TissueBox ToiletPaper ToiletPaperRoll Tomato WineBottle
HandTowelHolder: HandTowel
LaundryHamper: Cloth
Microwave: Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato
Ottoman: BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl
Safe: CD CellPhone CreditCard KeyChain Statue Vase Watch
Shelf: AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle
  HandTowel Kettle KeyChain Mug Newspaper PaperTowel Pen Pencil PepperShaker Plate Pot RemoteControl
  SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper ToiletPaperRoll Vase Watch
  WateringCan WineBottle
SinkBasin: Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle
  Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato
Sofa: BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl
StoveBurner: Kettle Pan Pot
TVStand: TissueBox
Toilet: Candle Cloth DishSponge HandTowel Newspaper PaperTowel SoapBar SoapBottle SprayBottle TissueBox
  ToiletPaper ToiletPaperRoll
ToiletPaperHanger: ToiletPaper ToiletPaperRoll
TowelHolder: Towel
"""

_CAN = """
Heatable: Apple Bread Cup Egg Mug Plate Potato Tomato
Coolable: Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle
Cleanable: Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate
  Pot Potato SoapBar Spatula Spoon Tomato
Toggleable: DeskLamp FloorLamp
Sliceable: Apple Bread Egg Lettuce Potato Tomato
"""

# First plan of a kind of room (kitchen, living room, bedroom, bathroom): objects of all its thirty plans.
_COMMON = """
1: Apple Bowl Bread Cup DishSponge Egg Fork Knife Lettuce Mug Pan PepperShaker Plate Pot Potato
  SaltShaker SoapBottle Spatula Spoon Tomato
201: Box CreditCard FloorLamp KeyChain Laptop Pillow RemoteControl
301: AlarmClock Book CD CellPhone CreditCard KeyChain Laptop Pen Pencil Pillow
401: Candle Cloth HandTowel Plunger SoapBar SoapBottle SprayBottle ToiletPaper Towel
"""

# Plan, receptacles with a letter for the place of each (two with one letter are reached together) | more objects.
_PLANS = """
1 Cabinet:abcdefgh CoffeeMachine:x CounterTop:ijk Drawer:llmnopqr Fridge:s GarbageCan:y Microwave:t
  Shelf:uv SinkBasin:w StoveBurner:z | Book ButterKnife CreditCard Glassbottle Kettle Statue Vase
  WineBottle
2 Cabinet:abbcdefeg CoffeeMachine:v CounterTop:hi Drawer:jklmnopqr Fridge:s GarbageCan:w Microwave:t
  SinkBasin:u StoveBurner:x | ButterKnife CellPhone Kettle Ladle
3 Cabinet:abcd CoffeeMachine:p CounterTop:e Drawer:fghijj Fridge:k GarbageCan:l Microwave:m SideTable:n
  SinkBasin:o StoveBurner:q | Kettle WineBottle
4 Cabinet:aa CoffeeMachine:n CounterTop:bcd DiningTable:e Drawer:fghhij Fridge:k GarbageCan:o
  Microwave:l SinkBasin:m StoveBurner:p | ButterKnife Ladle
5 Cabinet:abcdecffghijklmnopqr CoffeeMachine:D CounterTop:stu Drawer:vkw Fridge:x GarbageCan:E
  Microwave:y Shelf:zAB SinkBasin:C StoveBurner:F | ButterKnife Kettle Ladle Statue Vase
6 Cabinet:abcdefghijklmno CoffeeMachine:B CounterTop:pqrs Drawer:tuvw Fridge:x GarbageCan:y Microwave:z
  SinkBasin:A StoveBurner:C | ButterKnife Kettle
7 Cabinet:abcdefghijikl CoffeeMachine:x CounterTop:m DiningTable:n Drawer:opjq Fridge:r GarbageCan:y
  Microwave:s Shelf:tuv SinkBasin:w StoveBurner:z | Book ButterKnife Kettle Statue Vase WineBottle
8 Cabinet:abcdefghijklmnopqq CoffeeMachine:F CounterTop:rstu Drawer:vwxeyzA Fridge:B GarbageCan:C
  Microwave:D SinkBasin:E StoveBurner:G | ButterKnife Glassbottle Kettle Ladle Pen SprayBottle
9 Cabinet:abcdefghijklmnopqrirgqmsotuc CoffeeMachine:N CounterTop:vwx DiningTable:y Drawer:zABCDzEFGHI
  Fridge:J GarbageCan:K Microwave:L SinkBasin:M StoveBurner:O | ButterKnife Kettle
10 Cabinet:abc CoffeeMachine:p CounterTop:def Drawer:ggh Fridge:i GarbageCan:j Microwave:k Shelf:lmn
  SinkBasin:o StoveBurner:q | ButterKnife CellPhone CreditCard Glassbottle Statue Vase
11 Cabinet:abcdefghij CoffeeMachine:w CounterTop:klm DiningTable:n Drawer:opqrs Fridge:t GarbageCan:x
  Microwave:u SinkBasin:v StoveBurner:y | ButterKnife Kettle
12 Cabinet:abcdefghijklmno CoffeeMachine:z CounterTop:pqr Drawer:stuv Fridge:w GarbageCan:A Microwave:x
  SinkBasin:y StoveBurner:B | ButterKnife
13 Cabinet:abcdefghijklmnmop CoffeeMachine:E CounterTop:qrs Drawer:tuvwxyzA Fridge:B GarbageCan:F
  Microwave:C SinkBasin:D StoveBurner:G | ButterKnife Pencil WineBottle
14 Cabinet:abcd CoffeeMachine:j CounterTop:ef Fridge:g GarbageCan:k Microwave:h SinkBasin:i
  StoveBurner:l | ButterKnife Ladle
15 Cabinet:abcdefgh CoffeeMachine:r CounterTop:ij DiningTable:k Drawer:lmn Fridge:o GarbageCan:s
  Microwave:p SinkBasin:q StoveBurner:t | ButterKnife Kettle WineBottle
16 Cabinet:abcdefgfhijklmnopqrst CoffeeMachine:K CounterTop:uv DiningTable:w Drawer:xyzABCCDDEFG
  Fridge:H GarbageCan:L Microwave:I SinkBasin:J StoveBurner:M | ButterKnife Glassbottle Ladle WineBottle
17 Cabinet:abcdefghi CoffeeMachine:r CounterTop:jk DiningTable:lm Drawer:s Fridge:n GarbageCan:o
  Microwave:p SinkBasin:q StoveBurner:t | ButterKnife CellPhone Glassbottle Kettle SprayBottle
  WineBottle
18 Cabinet:abcdefghijklm CoffeeMachine:A CounterTop:no DiningTable:p Drawer:qrstu Fridge:v GarbageCan:w
  Microwave:x Safe:y SinkBasin:z StoveBurner:B | ButterKnife Kettle
19 Cabinet:abcdefghijklm CoffeeMachine:t CounterTop:no DiningTable:p Drawer:u Fridge:q GarbageCan:v
  Microwave:r SinkBasin:s StoveBurner:w | ButterKnife
20 Cabinet:abcdbefghij CoffeeMachine:s CounterTop:k DiningTable:l Drawer:t Fridge:m GarbageCan:u
  Microwave:n Shelf:opq SinkBasin:r StoveBurner:v | ButterKnife Ladle WineBottle
21 Cabinet:abcd CoffeeMachine:m CounterTop:e DiningTable:fgh Drawer:i Fridge:j GarbageCan:n Microwave:h
  SideTable:k SinkBasin:l StoveBurner:o | ButterKnife
22 Cabinet:abcbdefghijklmnoppqr CoffeeMachine:z CounterTop:stu Drawer:dv Fridge:w GarbageCan:A
  Microwave:x SinkBasin:y StoveBurner:B | ButterKnife CreditCard Kettle
23 Cabinet:abcdef CoffeeMachine:m CounterTop:g DiningTable:h Drawer:i Fridge:j GarbageCan:n Microwave:k
  SinkBasin:l StoveBurner:o | ButterKnife Glassbottle Pen Pencil WineBottle
24 Cabinet:abcdefeghijkllmnopqrr CoffeeMachine:B CounterTop:stu DiningTable:v Drawer:wxb Fridge:y
  GarbageCan:C Microwave:z SinkBasin:A StoveBurner:D | ButterKnife
25 Cabinet:abcdefgh CoffeeMachine:q CounterTop:i Drawer:jklmn Fridge:o GarbageCan:r Microwave:p
  SinkBasin:m StoveBurner:s | ButterKnife Ladle
26 Cabinet:abcde CoffeeMachine:o CounterTop:fg DiningTable:hi Drawer:jkl Fridge:m GarbageCan:p
  Microwave:n SinkBasin:n StoveBurner:q | ButterKnife
27 Cabinet:abcdefghi CoffeeMachine:t CounterTop:jk DiningTable:l Drawer:mno Fridge:p GarbageCan:q
  Microwave:r SinkBasin:s StoveBurner:u | ButterKnife Ladle WineBottle
28 Cabinet:abcdefghi CoffeeMachine:s CounterTop:jk DiningTable:lm Drawer:n Fridge:o GarbageCan:t
  Microwave:p SideTable:q SinkBasin:r StoveBurner:u | ButterKnife
29 Cabinet:abcdef CoffeeMachine:l CounterTop:gh Fridge:i GarbageCan:m Microwave:j SinkBasin:k
  StoveBurner:n | ButterKnife Kettle
30 Cabinet:abbcdefghijkl CoffeeMachine:M CounterTop:mnop Drawer:qrsstuvwxyyzAABCDECFECDEGHI Fridge:J
  GarbageCan:N Microwave:K SinkBasin:L StoveBurner:O | ButterKnife CellPhone Glassbottle Kettle Ladle
201 ArmChair:ab CoffeeTable:c DiningTable:de Drawer:fg GarbageCan:l SideTable:hi Sofa:j TVStand:k | Book
  Bowl Newspaper Pen Pencil Plate Statue TissueBox Vase Watch
202 ArmChair:a CoffeeTable:b GarbageCan:c SideTable:d Sofa:e TVStand:f | Book Statue Watch
203 ArmChair:a CoffeeTable:b DiningTable:c Drawer:defghi GarbageCan:m Ottoman:j SideTable:k Sofa:l |
  Book Bowl CellPhone Newspaper Pencil Plate TissueBox Vase Watch WateringCan
204 ArmChair:a CoffeeTable:b Desk:c DiningTable:d Drawer:eefggg GarbageCan:h Safe:g Shelf:ijk Sofa:lm
  TVStand:n | CellPhone Statue Vase WateringCan
205 ArmChair:ab DiningTable:c Drawer:defg Dresser:h GarbageCan:m Ottoman:n SideTable:ijk Sofa:l |
  DeskLamp Statue Watch WateringCan
206 ArmChair:a CoffeeTable:b GarbageCan:s Shelf:ccdefghijklmno Sofa:p TVStand:qr | Bowl Statue Vase
207 ArmChair:ab CoffeeTable:cd GarbageCan:l Shelf:eeefghij Sofa:k TVStand:g | Statue Vase Watch
208 ArmChair:a DiningTable:b Drawer:c GarbageCan:d Ottoman:e Shelf:ffghiiig SideTable:j Sofa:k TVStand:i
  | Statue Vase
209 ArmChair:a CoffeeTable:b Drawer:cde Dresser:f GarbageCan:g SideTable:hi Sofa:j | Book Newspaper Pen
  Statue Vase Watch WateringCan
210 ArmChair:a CoffeeTable:bc Drawer:defghijk Dresser:lm GarbageCan:p Ottoman:n Sofa:o | DeskLamp
  Newspaper Statue Watch WateringCan
211 ArmChair:a CoffeeTable:b Drawer:c GarbageCan:j Shelf:ddef SideTable:cg Sofa:h TVStand:i | CellPhone
  Newspaper Plate Statue Vase
212 ArmChair:ab CoffeeTable:c Drawer:d GarbageCan:l Shelf:efgh SideTable:d Sofa:i TVStand:jk | Newspaper
  Pen Pencil Statue TissueBox WateringCan
213 ArmChair:ab CoffeeTable:c DiningTable:d Drawer:efghiijklmno Dresser:p GarbageCan:u SideTable:qrs
  Sofa:t | Book Statue Watch
214 ArmChair:a CoffeeTable:b GarbageCan:c Shelf:d SideTable:e Sofa:fg | Newspaper Plate Statue Vase
  WateringCan
215 CoffeeTable:ab GarbageCan:n Shelf:cdefghij SideTable:kl Sofa:m | Bowl DeskLamp Newspaper Statue Vase
  Watch WateringCan
216 ArmChair:a DiningTable:b Drawer:cdef GarbageCan:k Shelf:e SideTable:ghi Sofa:j | DeskLamp Newspaper
  Statue TissueBox Vase
217 ArmChair:ab Cabinet:cdef CoffeeTable:g Drawer:hijk Dresser:i GarbageCan:l SideTable:m Sofa:n |
  Statue Watch WateringCan
218 CoffeeTable:a DiningTable:b Drawer:cdef Dresser:g GarbageCan:h SideTable:ij Sofa:k | CellPhone
  DeskLamp Newspaper Plate Statue WateringCan
219 ArmChair:a Cabinet:bbcc Drawer:defgh Dresser:f GarbageCan:u Safe:i Shelf:jjklmnopqrrr SideTable:s
  Sofa:t | CellPhone Newspaper Statue TissueBox Vase Watch
220 ArmChair:a CoffeeTable:b DiningTable:cc Drawer:defghi Dresser:j GarbageCan:o SideTable:k Sofa:lm
  TVStand:n | Candle Statue TissueBox
221 ArmChair:a CoffeeTable:bc DiningTable:d Drawer:e GarbageCan:h SideTable:f Sofa:g | Pen Plate Statue
  Vase
222 ArmChair:a CoffeeTable:b Drawer:cccddde GarbageCan:l SideTable:fgh Sofa:ij TVStand:k | Newspaper
  Statue Watch
223 ArmChair:abc CoffeeTable:d DiningTable:ef GarbageCan:i Sofa:g TVStand:h | Candle Plate Statue Vase
  WateringCan
224 ArmChair:a Cabinet:w Drawer:bcdefghgfihgjklmnoo Dresser:p GarbageCan:x SideTable:qrstu Sofa:v | Book
  CellPhone DeskLamp Newspaper Statue Vase WateringCan
225 ArmChair:a CoffeeTable:b Drawer:c GarbageCan:l Shelf:deefgh SideTable:i Sofa:jk TVStand:f | DeskLamp
  Newspaper Statue TissueBox Vase Watch
226 ArmChair:a CoffeeTable:b Drawer:cdededf GarbageCan:i SideTable:g Sofa:h | Newspaper Statue Watch
227 ArmChair:ab Cabinet:cdefghij CoffeeTable:kl DiningTable:m Drawer:noppqrs GarbageCan:t
  Shelf:uvwxyzABCCDEF Sofa:G | Newspaper Plate Statue Vase
228 CoffeeTable:a DiningTable:b Drawer:c GarbageCan:d SideTable:ef Sofa:gh | Newspaper Plate Statue Vase
  Watch
229 ArmChair:a CoffeeTable:b Drawer:cdef Dresser:g GarbageCan:l SideTable:hij Sofa:k | Book CellPhone
  Pen Pencil Statue TissueBox WateringCan
230 ArmChair:ab CoffeeTable:cd DiningTable:e GarbageCan:i SideTable:fg Sofa:h | Candle Newspaper Plate
  Statue TissueBox Watch
301 Bed:a Desk:b Drawer:ccdeefg Dresser:h GarbageCan:n Shelf:ijkllm | BaseballBat BasketBall Bowl Box
  DeskLamp Mug Statue TissueBox Watch
302 Bed:a Desk:b Drawer:cd GarbageCan:k Safe:e Shelf:fgh SideTable:ij | Bowl DeskLamp TennisRacket
303 Bed:a Desk:b Drawer:cdd Dresser:e GarbageCan:o Shelf:fghhijkllm SideTable:n | BaseballBat Box Cloth
  DeskLamp Mug TennisRacket Vase
304 Bed:ab Desk:c Drawer:d GarbageCan:e LaundryHamper:f Shelf:g | BasketBall Bowl Box DeskLamp Mug
  Statue
305 Bed:a Desk:b Drawer:ccd Dresser:e GarbageCan:g LaundryHamper:h Shelf:f | BaseballBat BasketBall Bowl
  Box DeskLamp Mug
306 Bed:a Desk:b Drawer:cdefg GarbageCan:j LaundryHamper:k Shelf:h SideTable:i | DeskLamp
307 Bed:a Desk:b Drawer:ccd GarbageCan:h LaundryHamper:i Shelf:ef SideTable:g | Bowl Cloth DeskLamp
  RemoteControl TennisRacket
308 Bed:a Desk:bc Drawer:def GarbageCan:g LaundryHamper:n Safe:h Shelf:ijklm | BaseballBat BasketBall
  Bowl DeskLamp Mug
309 ArmChair:abc Bed:d Cabinet:ef Desk:g Drawer:hij GarbageCan:l LaundryHamper:m Safe:n SideTable:k |
  DeskLamp Mug RemoteControl
310 Bed:a Cabinet:bcdd Desk:e Drawer:fg GarbageCan:h Shelf:c SideTable:i | BaseballBat BasketBall Box
  TennisRacket
311 ArmChair:ab Bed:c CounterTop:d DiningTable:e Drawer:fg Dresser:h GarbageCan:j LaundryHamper:k
  SideTable:i | Bowl Mug RemoteControl
312 Bed:a Desk:b Drawer:cd GarbageCan:k Shelf:effggghi SideTable:j | BasketBall
313 Bed:a Desk:b Drawer:cdefgg GarbageCan:k Shelf:hi SideTable:j | BaseballBat Box Mug TennisRacket
  TissueBox
314 Bed:a Desk:b Drawer:cdefg Dresser:h GarbageCan:i | BasketBall Box DeskLamp
315 Bed:a CoffeeTable:b DiningTable:c Drawer:ddefghhijklmn Dresser:o GarbageCan:p | BaseballBat DeskLamp
  Mug
316 Bed:a Desk:b Drawer:c GarbageCan:f Shelf:d SideTable:e | BaseballBat Bowl Box DeskLamp
317 Bed:a Drawer:bcdddefbghi Dresser:j GarbageCan:k LaundryHamper:n Safe:l SideTable:m | Bowl Box Cloth
  DeskLamp
318 ArmChair:a Bed:bc Cabinet:d Desk:ef Drawer:ghihjklmno Dresser:pq GarbageCan:r | Box DeskLamp Mug
  TennisRacket
319 Bed:a Drawer:bcdedfdfgh Dresser:i GarbageCan:p Shelf:jkllmnoo | BasketBall Box DeskLamp Statue
320 Bed:a Desk:bc GarbageCan:g Shelf:defec | BasketBall DeskLamp TennisRacket
321 ArmChair:a Bed:b DiningTable:c Drawer:de GarbageCan:g SideTable:fe | TissueBox
322 ArmChair:a Bed:b Cabinet:cdef Drawer:ghij Dresser:k GarbageCan:n SideTable:lm | BaseballBat Cloth
  Mug
323 Bed:ab Desk:c Drawer:ddefghijklm Dresser:n GarbageCan:r Safe:o SideTable:pq | Bowl DeskLamp Mug
324 Bed:a Drawer:bcdcdcefgh Dresser:i GarbageCan:j Shelf:klm | BaseballBat DeskLamp Mug TennisRacket
325 Bed:a Cabinet:bcde Drawer:fghijjklmnopmq Dresser:rs GarbageCan:w Shelf:tu SideTable:v | Vase
326 Bed:ab DiningTable:c Drawer:de GarbageCan:u Shelf:fghijklmnopqrs SideTable:t | BaseballBat
  BasketBall Bowl Cloth Mug TennisRacket Watch
327 Bed:a Desk:b Drawer:cdedfgh Dresser:i GarbageCan:j Shelf:kllm | BaseballBat BasketBall Bowl DeskLamp
328 Bed:a Desk:b Drawer:cd GarbageCan:e Shelf:f SideTable:g | DeskLamp Mug TennisRacket TissueBox
329 Bed:a DiningTable:b Drawer:cd GarbageCan:f SideTable:e | BaseballBat Box Mug
330 ArmChair:a Bed:b Drawer:cdefghijkilmno Dresser:p GarbageCan:u Shelf:qr SideTable:st | Bowl Statue
  Vase
401 BathtubBasin:a Cart:b GarbageCan:c HandTowelHolder:g Shelf:ddde SinkBasin:f Toilet:h
  ToiletPaperHanger:i TowelHolder:j | DishSponge
402 BathtubBasin:a Cabinet:bcdc CounterTop:e GarbageCan:f HandTowelHolder:gh Shelf:o SinkBasin:ij
  Toilet:l ToiletPaperHanger:k TowelHolder:mn | TissueBox
403 BathtubBasin:a Cabinet:bcde CounterTop:f GarbageCan:j HandTowelHolder:k Shelf:l SinkBasin:gh
  Toilet:i ToiletPaperHanger:m TowelHolder:n | DishSponge
404 BathtubBasin:a GarbageCan:g HandTowelHolder:h Shelf:bcd SinkBasin:e Toilet:f ToiletPaperHanger:i
  TowelHolder:j | TissueBox
405 BathtubBasin:a Cabinet:bccde CounterTop:f GarbageCan:i HandTowelHolder:j SinkBasin:g Toilet:h
  ToiletPaperHanger:k TowelHolder:l |
406 BathtubBasin:a Cabinet:bc CounterTop:d GarbageCan:e HandTowelHolder:h SinkBasin:f Toilet:g
  ToiletPaperHanger:i TowelHolder:j |
407 BathtubBasin:a Cabinet:bcde CounterTop:f GarbageCan:g HandTowelHolder:k SinkBasin:hi Toilet:j
  ToiletPaperHanger:l TowelHolder:m |
408 BathtubBasin:a Cabinet:bcdb CounterTop:e GarbageCan:f HandTowelHolder:j SinkBasin:gh Toilet:i
  ToiletPaperHanger:k TowelHolder:l |
409 CounterTop:a Drawer:bcdbef GarbageCan:g HandTowelHolder:j SinkBasin:h Toilet:i ToiletPaperHanger:k
  TowelHolder:l |
410 BathtubBasin:a CounterTop:b Drawer:cdefgh GarbageCan:k HandTowelHolder:l SinkBasin:ij Toilet:m
  ToiletPaperHanger:n TowelHolder:o |
411 BathtubBasin:a CounterTop:bc Drawer:defg GarbageCan:j HandTowelHolder:k SinkBasin:h Toilet:i
  ToiletPaperHanger:l TowelHolder:m |
412 Cabinet:abc CounterTop:d GarbageCan:h HandTowelHolder:i SinkBasin:ef Toilet:g ToiletPaperHanger:j
  TowelHolder:k | FloorLamp
413 BathtubBasin:a Cabinet:bcde CounterTop:f Drawer:k Dresser:g GarbageCan:d HandTowelHolder:l
  SinkBasin:hi Toilet:j ToiletPaperHanger:m TowelHolder:n |
414 BathtubBasin:a Cabinet:bcbdefegg CounterTop:hi Drawer:k GarbageCan:l HandTowelHolder:m SinkBasin:j
  Toilet:h ToiletPaperHanger:n TowelHolder:o | DishSponge
415 BathtubBasin:a CounterTop:b Drawer:cdef Dresser:g GarbageCan:h HandTowelHolder:l Shelf:i SinkBasin:j
  Toilet:k ToiletPaperHanger:m TowelHolder:n |
416 CounterTop:a Drawer:bc GarbageCan:d HandTowelHolder:h SinkBasin:ef Toilet:g ToiletPaperHanger:i
  TowelHolder:j |
417 Cabinet:aabc CounterTop:d GarbageCan:e HandTowelHolder:h SinkBasin:fg Toilet:i ToiletPaperHanger:j
  TowelHolder:k | FloorLamp
418 Cabinet:abb CounterTop:c GarbageCan:e HandTowelHolder:f SinkBasin:g Toilet:d ToiletPaperHanger:h
  TowelHolder:i |
419 BathtubBasin:a Drawer:d GarbageCan:e HandTowelHolder:f SideTable:b SinkBasin:c Toilet:g
  ToiletPaperHanger:h TowelHolder:i | TissueBox
420 BathtubBasin:a Drawer:b GarbageCan:f HandTowelHolder:g SideTable:c SinkBasin:d Toilet:e
  ToiletPaperHanger:h TowelHolder:i |
421 CounterTop:a Drawer:bbcdeff GarbageCan:j HandTowelHolder:k SinkBasin:gh Toilet:i ToiletPaperHanger:l
  TowelHolder:m | DishSponge
422 BathtubBasin:a Cabinet:bcdef CounterTop:g Drawer:k GarbageCan:l HandTowelHolder:m Shelf:hh
  SinkBasin:i Toilet:j ToiletPaperHanger:n TowelHolder:o | TissueBox
423 BathtubBasin:a CounterTop:bc Drawer:defghgij GarbageCan:m HandTowelHolder:n SinkBasin:kl Toilet:o
  ToiletPaperHanger:p TowelHolder:q |
424 Cabinet:abcd CounterTop:e GarbageCan:i HandTowelHolder:j SinkBasin:fg Toilet:h ToiletPaperHanger:k
  TowelHolder:l |
425 Cabinet:abcd CounterTop:e GarbageCan:g HandTowelHolder:h SinkBasin:i Toilet:f ToiletPaperHanger:j
  TowelHolder:k | TissueBox
426 BathtubBasin:a CounterTop:b Drawer:cdefgeh GarbageCan:i HandTowelHolder:l SinkBasin:j Toilet:k
  ToiletPaperHanger:m TowelHolder:n | TissueBox
427 BathtubBasin:a CounterTop:b Drawer:ccddeeff GarbageCan:h HandTowelHolder:i SinkBasin:g Toilet:j
  ToiletPaperHanger:k TowelHolder:l | DishSponge TissueBox
428 Cabinet:abcd CounterTop:e GarbageCan:i HandTowelHolder:j SinkBasin:fg Toilet:h ToiletPaperHanger:k
  TowelHolder:l |
429 BathtubBasin:a GarbageCan:e HandTowelHolder:f Shelf:bc SinkBasin:g Toilet:d ToiletPaperHanger:h
  TowelHolder:i | TissueBox
430 BathtubBasin:a Cart:b CounterTop:c Drawer:deee GarbageCan:f HandTowelHolder:i Shelf:j SinkBasin:g
  Toilet:h ToiletPaperHanger:k TowelHolder:l | DishSponge TissueBox
"""


class FloorPlan(NamedTuple):
    """One room: the kinds of its receptacles, in the order of the engine's names, the place of each, from 0 on, and the
    kinds of objects that may lie there."""

    receptacles: tuple[str, ...]
    spots: tuple[int, ...]
    objects: tuple[str, ...]


def _rows(text: str) -> list[str]:
    return text.strip().replace("\n  ", " ").split("\n")


def _table(text: str) -> dict[str, frozenset[str]]:
    return {name: frozenset(kinds.split()) for name, _, kinds in (row.partition(":") for row in _rows(text))}


CAN = _table(_CAN)  # property -> kinds of objects
HOLDS = _table(_HOLDS)
HOLDS |= dict.fromkeys(("CoffeeTable", "DiningTable", "SideTable"), HOLDS["CounterTop"])
OPENABLE = frozenset(("Cabinet", "Drawer", "Fridge", "Microwave", "Safe"))
VESSELS = frozenset(("Bowl", "Box", "Cup", "Mug", "Pan", "Plate", "Pot"))  # the engine calls them receptacle objects


def engine_order(kind: str) -> str:
    """The text by which the engine sorts a kind of thing: basins go by the name of what they are in."""
    return {"SinkBasin": "sink", "BathtubBasin": "bathtub"}.get(kind, kind.lower())


@cache
def floor_plans() -> dict[int, FloorPlan]:
    """All 120 floor plans by their numbers: 1 to 30 are kitchens, 201 to 230 living rooms, 301 to 330 bedrooms, 401 to
    430 bathrooms."""
    common = _table(_COMMON)
    found = {}
    for row in _rows(_PLANS):
        stands, _, more = row.partition("|")
        number, *groups = stands.split()
        places = {kind: letters for kind, _, letters in (group.partition(":") for group in groups)}
        pairs = [(kind, letter) for kind, letters in places.items() for letter in letters]
        pairs.sort(key=lambda pair: engine_order(pair[0]))
        objects = common[str(int(number) // 100 * 100 + 1)] | set(more.split())
        found[int(number)] = FloorPlan(
            tuple(kind for kind, _ in pairs),
            tuple(string.ascii_letters.index(letter) for _, letter in pairs),
            tuple(sorted(objects, key=engine_order)),
        )
    return found
