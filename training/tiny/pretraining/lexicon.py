"""The vocabulary of procedural worlds.

The domains of the examples and of the development data (order support, airlines) are excluded, so that rehearsal-tiny
learns them only from traces.
"""

NOUNS = """device sensor room patient course vehicle recipe playlist server volume garden book loan member meter
project task note event station bike trail pump window lamp printer badge locker desk permit license contract
policy claim account wallet pass membership lesson class student teacher exam grade team player match league
stadium artist album song podcast channel video clip camera alarm door lock gate elevator crane machine robot
drone battery panel turbine boiler valve tank pipeline well field farm animal crop seed greenhouse tree park
museum exhibit painting statue archive document folder report invoice budget grant fund asset bond share branch
office building floor unit apartment house key meeting agenda survey question answer form template workflow job
queue cluster node container image registry repository commit release build deployment secret token session
domain record zone certificate network router switch port probe sample specimen experiment trial dose vaccine
clinic ward nurse doctor therapy appointment referral case court hearing judge lawyer witness""".split()

VERBS = """activate archive approve assign attach block book close confirm deactivate disable enable enroll extend
freeze hide install issue join launch link lock mark merge move mute open park pause pin publish register release
remove rename renew reopen replace reserve reset restart restore resume revoke rotate schedule seal send share
start stop submit suspend tag terminate transfer unlock update upgrade validate verify withdraw""".split()

STATUSES = """active inactive pending open closed archived approved rejected draft published locked unlocked
enabled disabled running stopped paused ready busy idle failed done expired valid suspended frozen sealed waiting
scheduled assigned free reserved broken online offline full empty new old hidden visible""".split()

ADJECTIVES = """red blue green white black grey silver golden small large tiny big short long narrow wide light dark
quiet loud fast slow early late north south east west upper lower inner outer warm cold dry wet soft hard plain
bright deep high low central main spare double single round square flat fresh clean simple rapid steady""".split()

FIELDS = """status level size color owner manager location address city country region zone price cost amount
balance total limit quota count capacity weight length height width speed rate score rank priority stage phase
type kind model brand version language title label summary category group department email phone name contact
date deadline start end created updated due duration temperature pressure voltage stock quantity seats rooms
pages items notes reason comment""".split()

FIRST_NAMES = """Ada Alan Amir Ana Anna Ben Bruno Carla Chen Clara Dana David Diego Elena Emil Emma Erik Eva Fatima
Felix Finn Flora Grace Hana Hugo Ines Ivan Jan Jana Joan Jonas Julia Kai Karl Kate Lara Lea Leo Lena Liam Lina Luca
Lucy Maja Marco Maria Mark Marta Max Maya Mia Mila Mina Nadia Nils Nina Noah Nora Olga Oscar Otto Paul Paula Pedro
Petra Rita Robert Rosa Ruth Sam Sara Simon Sofia Tara Theo Tim Tom Uma Vera Victor Walter Yara Yusuf Zoe""".split()

LAST_NAMES = """Adams Bauer Becker Bell Berg Blum Brown Carter Castro Chan Cohen Cole Cruz Diaz Evans Fischer Ford
Fox Garcia Gray Green Haas Hall Hart Hill Hoffman Hunt Ivanov Jensen Jones Kaya Keller Khan Kim King Klein Koch
Kumar Lang Lee Lopez Martin Mason Meyer Miller Moore Moreno Nagy Nguyen Novak Olsen Park Patel Perez Price Ramos
Reed Reyes Rossi Roth Ruiz Sato Schmidt Shaw Silva Singh Smith Stein Stone Sun Tanaka Turner Vega Vogel Wagner
Walker Wang Ward Weber White Wolf Wong Wright Young Zhang Ziegler""".split()

STREETS = """Oak Elm Pine Cedar Maple Birch Lake River Hill Park Mill Church Station Garden Meadow Forest Spring
Valley Bridge Market Castle Harbor Sunset Bay Rose""".split()

CITIES = """Berlin Lyon Porto Oslo Turin Ghent Leeds Basel Graz Brno Cork Malmo Bern Nice Riga Split Vigo York Delft
Bonn Lund Pisa Kiel Linz Metz Bari Ulm Reims Tartu Bergen""".split()

COMMON = """the a an and or but if then else when while for from to of in on at by with without about into over under
after before between during through is are was were be been being am do does did done have has had having will
would can could should may might must shall not no yes please thanks thank you your yours i me my mine we us our
they them their he she it its this that these those here there where what which who whom whose why how all any
each every some none one two three four five six seven eight nine ten first second third last next previous again
already also always anything back because best better both call can't cannot change check come correct could
different don't each easy else enough even ever everything exactly fact few fine first follow get give given go
going gone good got great happen happy help hello hi hey however i'm i'd i'll it's just keep kind know known later
least leave left let like little long look looking lot made make many maybe mean mistake moment more most much
need needed needs never nothing now number off ok okay old only other our out own part place point possible
problem put question quick quite rather really receive received right said same say see seem seen sent set several
should show since small something sometimes soon sorry still such sure system take taken tell than that's thing
things think time today tomorrow too tool tried try trying turn under until use used using usually very wait want
wanted way week well went what's whether whole wish within won't word work working worry wrong year yesterday yet
you're customer order product item return refund ship shipped shipping delivery delivered deliver cancel cancelled
payment pay paid card money cents dollars euros charge charged arrive arrived track tracking carrier support agent
service request response error found find search result results list page pages detail details information info
invalid missing required format argument value integer string number timeout timed retry limit limited exceeded
conflict exists exist available unavailable state current success successful successfully failed failure unable
allowed denied permission expected unknown empty total complete completed update updated create created delete
deleted remove removed add added confirm confirmed account user profile password login address street postcode
phone email contact message flight seat booking reservation passenger airport cabin economy business baggage
insurance certificate gift credit travel trip ticket departure arrival delayed origin destination""".split()
