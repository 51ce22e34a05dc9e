# Whatever the way into the table, the outcome is the same: the tests of small
# batches again with every batch packed, which else only large ones are.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Ways;

again('packed', qw(103_poison 104_exactly_once 105_ownership 106_commit 107_position));
done_testing();
