# Whatever the way into the table, the outcome is the same: with every batch
# copied, as only those of some tables are, and with large ones in one request.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Ways;

again('copied', qw(102_ingest 103_poison 104_exactly_once 106_commit));
again('whole', '102_ingest');
done_testing();
