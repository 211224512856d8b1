/** Resolves args[0] as Java programs do and prints the addresses; exits 2 when it does not resolve. */
public class Resolve {
    public static void main(String[] args) {
        try {
            for (var address : java.net.InetAddress.getAllByName(args[0])) System.out.println(address.getHostAddress());
        } catch (java.net.UnknownHostException error) {
            System.err.println(error);
            System.exit(2);
        }
    }
}
