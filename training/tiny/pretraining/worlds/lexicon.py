"""The words of procedural worlds and of the tokenizer.

The names, places, products and tools of the examples are excluded, so that rehearsal-tiny learns them only from traces.
"""

NOUNS = """
device sensor room patient course vehicle recipe playlist server volume book loan member meter project task note event
bike trail pump printer badge locker permit license contract claim account wallet pass membership lesson class student
teacher exam grade team player match league stadium artist album song podcast channel video clip camera alarm door
lock gate elevator crane machine robot drone battery panel turbine boiler valve tank pipeline well animal crop seed
greenhouse tree museum exhibit painting statue archive document folder report invoice budget grant fund asset bond
branch office building floor unit apartment house key meeting agenda survey question answer form template workflow job
queue cluster node container image registry repository commit release build deployment secret token session domain
record zone certificate network router switch port probe sample specimen experiment trial dose vaccine clinic ward
nurse doctor therapy appointment referral case hearing judge lawyer witness
""".split()

VERBS = """
activate archive approve assign attach block book close confirm deactivate disable enable enroll extend freeze hide
install issue join launch lock merge move mute open pause pin publish register release rename renew reopen replace
reserve reset restart restore resume revoke rotate schedule seal share start stop submit suspend tag terminate
transfer unlock update upgrade validate verify withdraw
""".split()

STATUSES = """
active inactive pending open closed archived approved rejected draft published locked unlocked enabled disabled
running stopped paused ready busy idle failed done expired valid suspended frozen sealed waiting scheduled assigned
free reserved broken online offline full empty new old hidden visible
""".split()

ADJECTIVES = """
silver golden amber violet crimson small large tiny big short long narrow wide light dark quiet loud fast slow early
late north south east west upper lower inner outer warm cold dry wet soft hard plain bright deep high low central main
spare double single round square flat fresh clean simple rapid steady smooth heavy thin thick sharp calm wild solid
hollow curved modern ancient local remote public private primary secondary
""".split()

FIELDS = """
size owner manager location region country zone cost fee amount balance limit quota capacity weight length height
width speed rate score rank priority stage phase kind model brand version language label summary category group
department contact contact_name deadline start end created updated due duration temperature pressure voltage seats
rooms pages notes reason comment level distance power energy budget deposit
""".split()

QUANTITIES = """
cost fee amount balance limit capacity weight length height width speed rate duration distance power energy budget
deposit
""".split()

COMMON = """
the a an and or but if then else when while for from to of in on at by with without about into over under after before
between during through is are was were be been being am do does did done have has had having will would can could
should may might must shall not no yes please thanks thank you your yours i me my mine we us our they them their he
she it its this that these those here there where what which who whom whose why how all any each every some none one
two three four five six seven eight nine ten first second third last next previous again already also always anything
back because best better both call can't cannot change check come correct could different don't easy enough even ever
everything exactly fact few fine follow get give given go going gone good got great happen happy help hello hi hey
however i'm i'd i'll it's just keep kind know known later least leave left let like little look looking lot made make
many maybe mean mistake moment more most much need needed needs never nothing now number off ok okay old only other
out own part place point possible problem put question quick quite rather really receive received right said same say
see seem seen sent set several show since something sometimes soon sorry still such sure system take taken tell than
that's thing things think time today tomorrow too tool tried try trying turn until use used using usually very wait
want wanted way week well went what's whether whole wish within won't word work working worry wrong year yesterday yet
you're agent user name person people day month hour minute address phone email message text letter world life hand
part eye woman man child home school state family group country company money pay paid card service business member
law city community president team war history party result morning reason research girl guy air teacher force
education order return product price policy side head house level job power water line end name area request response
error found find search list results page pages detail details information info invalid missing required format
argument value integer string number timeout timed retry limit limited exceeded conflict exists exist available
unavailable current success successful failed failure unable allowed denied permission expected unknown total complete
completed create created delete deleted remove removed add added confirm confirmed profile password login flight seat
airport ticket above across age against agree allow almost alone along although among ask away bad base become began
behind believe below body bring build built buy car care carry cause center certain children clear color common
consider continue control cut decide develop difference direction down draw drive eat example experience face fall
family far father feel feet final fire food foot form friend front full game general ground grow half hear heart held
high hold hope hot hour house idea important include increase inside interest kept land large late lead learn less
light line list live local lose lost main matter meet mind miss mother move near night note notice offer often open
opened outside pass past pattern pick plan plant play position possible present print produce provide pull push race
raise reach read ready reason record remember rest road round rule run safe sat save second section send sent sense
serve service short side simple sing sit sleep slow sound space speak special speed stand start starts state stay step
stop store story strong study sum support surface teach test tie touch toward town travel true type under upon usual
view voice wait walk wall warm watch weight west wide wind wood write written yes young
""".split()
"""Frequent English words, and words of interfaces: only the tokenizer learns them."""
