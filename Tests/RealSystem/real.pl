# Perl's numbers, text and processes, printed so that they can be compared (see work).
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Digest::MD5 qw(md5_hex);
use List::Util qw(sum reduce shuffle);
use Math::BigInt;
use Math::BigFloat;
use POSIX qw(floor fmod strtod);
use MIME::Base64;
use Storable qw(freeze thaw);
use Time::Local;

my $state = 12345;
sub next_number { $state = ($state * 1103515245 + 12345) % 2147483648; return $state }

my @numbers = map { (next_number() - 1e9) * 10**((next_number() % 60) - 30) } 1 .. 2000;
print sha256_hex(join ',', @numbers), " ", sha256_hex(join ',', map { sprintf '%.17g %e %a', $_, $_, $_ } @numbers), "\n";
print join(' ', map { sin($_), cos($_), atan2($_, 3), exp(-abs($_) / 1e40), sqrt(abs $_), int($_ / 1e20) } @numbers[0 .. 40]), "\n";
print join(' ', map { fmod($_, 17), floor($_), $_ <=> 0 } @numbers[0 .. 40]), "\n";
print Math::BigInt->new(2)->bpow(2000)->bmod(1000003), ' ', Math::BigInt->new(300)->bfac, "\n";
print Math::BigFloat->new(2)->bsqrt(200), ' ', Math::BigFloat->bpi(200), "\n";

my $text = join ' ', map { (qw(alpha beta42 Gamma_d delta-echo 1e9), "\x{e9}\x{4e2d}")[next_number() % 6] } 1 .. 50000;
my %count;
$count{$_}++ for split / /, $text;
{
    no warnings 'utf8';
    binmode STDOUT, ':utf8';
    print map { "$_=$count{$_}\n" } sort keys %count;
}
(my $swapped = $text) =~ s/(\w+)-(\w+)/$2+$1/g;
my $vowels = ($text =~ tr/aeiou//);
my @found = $text =~ /\b(?=\w*\d)([a-z]+)(\d{2})\b/g;
utf8::encode($swapped);
print sha256_hex($swapped), " $vowels ", scalar(@found), ' ', md5_hex(encode_base64($swapped)), "\n";
print 'nested: ', ('((a)(b(c)))(' =~ /^(\((?:[^()]++|(?1))*\))/ ? $1 : 'none'), "\n";

my @sorted = sort { $a->[1] <=> $b->[1] or $a->[0] cmp $b->[0] } map { [$_ . 'k', next_number() % 1000] } 1 .. 50000;
print sha256_hex(join ',', map { "@$_" } @sorted), "\n";
my $copy = thaw(freeze({ list => \@sorted, text => $swapped }));
print sha256_hex($copy->{text} . join ',', map { "@$_" } @{ $copy->{list} }), "\n";
print sha256_hex(pack 'w*N*d>*', map { abs int $_ % 1e9 } @numbers[0 .. 99]), ' ', join(',', unpack 'c s l q', pack 'c s l q', -1, -2, -3, -4), "\n";
print timegm(59, 59, 23, 28, 1, 2000), ' ', scalar(gmtime 1e9), "\n";

for my $n (1 .. 20) {
    my $child = fork;
    defined $child or die "fork: $!";
    exit($n * 7 % 256) if !$child;
    waitpid $child, 0;
    print $? >> 8, $n < 20 ? ' ' : "\n";
}
open my $pipe, '-|', 'seq 1 5000 | sort -rn | head -n 3' or die;
print <$pipe>;
local $SIG{ALRM} = sub { print "alarm\n" };
alarm 1;
select undef, undef, undef, 10;
